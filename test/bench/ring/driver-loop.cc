// The driver's half of the yardstick: chains are added, published and collected as plainly and as quickly as
// C++ -O2 does it, with the checks of the TypeScript loops and the same tables to read and to fill. The
// device that uses the chains is here too, and is not measured.
#include <node_api.h>
#include <time.h>

#include <cstdint>
#include <vector>

namespace {

struct Descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags;  // packed: id
  uint16_t next;   // packed: flags
};

struct Element {
  uint32_t id, length;
};

constexpr uint16_t kNext = 1, kWrite = 2, kIndirect = 4, kAvail = 1 << 7, kUsed = 1 << 15;

struct Segment {
  int32_t window, offset, length, unused;
};

struct Queue {
  bool packed, indirect;
  uint32_t size;
  Descriptor* descriptors;
  uint16_t* available;
  uint16_t* used;
  // What one lap adds: `total` rows a chain.
  const Segment* segments;
  uint32_t readable, total, chainsInLap, capacity;
  Descriptor* tables;
  uint64_t tablesAddress;
  std::vector<double> bases;
  uint16_t* ids;
  uint32_t* lengths;
  // The book of chains in flight.
  std::vector<uint16_t> slots, nextFree, last, freeIds;
  std::vector<uint32_t> writable;
  uint32_t free, freeHead = 0, published = 0, unpublished = 0;
  uint32_t nextAvailable = 0, nextUsed = 0, availableWrap = 1, usedWrap = 1;
  Descriptor* first = nullptr;
  uint16_t firstFlags = 0;
  // The device.
  uint32_t deviceCursor = 0, deviceWrap = 1, deviceWrites;
};

std::vector<Queue*> queues;

// Guest address of a segment, all ones when it is none.
inline uint64_t addressOf(const Queue& q, const Segment& segment) {
  if (static_cast<uint32_t>(segment.window) >= q.bases.size() || segment.length < 0) return ~0ull;
  double base = q.bases[segment.window];
  return base >= 0 ? static_cast<uint64_t>(base) + segment.offset : ~0ull;
}

// Fills the id's indirect table; false when a segment is no guest memory.
inline bool fillTable(Queue& q, uint32_t id, const Segment* segments) {
  Descriptor* table = q.tables + id * q.capacity;
  uint32_t writable = 0;
  for (uint32_t i = 0; i < q.total; i++) {
    uint64_t address = addressOf(q, segments[i]);
    if (address == ~0ull) return false;
    uint16_t flags = i >= q.readable ? kWrite : 0;
    if (flags) writable += segments[i].length;
    table[i].address = address;
    table[i].length = segments[i].length;
    if (q.packed) {
      table[i].flags = 0;
      table[i].next = flags;
    } else {
      bool more = i + 1 < q.total;
      table[i].flags = flags | (more ? kNext : 0);
      table[i].next = more ? i + 1 : 0;
    }
  }
  q.writable[id] = writable;
  return true;
}

bool addSplit(Queue& q, const Segment* segments) {
  uint32_t slots = q.indirect ? 1 : q.total;
  if (slots > q.free) return false;
  uint32_t head = q.freeHead, at = head, last = head, writable = 0;
  if (q.indirect) {
    if (!fillTable(q, head, segments)) return false;
    q.descriptors[head] = {q.tablesAddress + head * q.capacity * 16, q.total * 16, kIndirect, 0};
    at = q.nextFree[head];
  } else {
    for (uint32_t i = 0; i < q.total; i++) {
      uint64_t address = addressOf(q, segments[i]);
      if (address == ~0ull) return false;
      uint16_t flags = 0, next = q.nextFree[at];
      if (i >= q.readable) {
        flags = kWrite;
        writable += segments[i].length;
      }
      bool more = i + 1 < q.total;
      q.descriptors[at] = {address, static_cast<uint32_t>(segments[i].length),
                           static_cast<uint16_t>(flags | (more ? kNext : 0)),
                           static_cast<uint16_t>(more ? next : 0)};
      last = at;
      at = next;
    }
    q.writable[head] = writable;
  }
  q.freeHead = at;
  q.last[head] = last;
  q.slots[head] = slots;
  q.free -= slots;
  q.available[2 + (q.nextAvailable & (q.size - 1))] = head;
  q.nextAvailable = (q.nextAvailable + 1) & 0xffff;
  q.unpublished++;
  return true;
}

bool addPacked(Queue& q, const Segment* segments) {
  uint32_t slots = q.indirect ? 1 : q.total;
  if (slots > q.free) return false;
  uint16_t id = q.freeIds.back();
  uint32_t at = q.nextAvailable, wrap = q.availableWrap, writable = 0;
  Descriptor* head = &q.descriptors[at];
  uint16_t headFlags = 0;
  if (q.indirect && !fillTable(q, id, segments)) return false;
  for (uint32_t i = 0; i < slots; i++) {
    Descriptor& d = q.descriptors[at];
    uint16_t flags = wrap ? kAvail : kUsed;
    if (q.indirect) {
      d.address = q.tablesAddress + id * q.capacity * 16;
      d.length = q.total * 16;
      flags |= kIndirect;
    } else {
      uint64_t address = addressOf(q, segments[i]);
      if (address == ~0ull) return false;
      d.address = address;
      d.length = segments[i].length;
      if (i >= q.readable) {
        flags |= kWrite;
        writable += segments[i].length;
      }
      if (i + 1 < slots) flags |= kNext;
    }
    d.flags = id;
    if (i == 0)
      headFlags = flags;
    else
      d.next = flags;
    if (++at == q.size) {
      at = 0;
      wrap ^= 1;
    }
  }
  if (!q.indirect) q.writable[id] = writable;
  if (q.first) {
    head->next = headFlags;
  } else {
    q.first = head;
    q.firstFlags = headFlags;
  }
  q.freeIds.pop_back();
  q.slots[id] = slots;
  q.free -= slots;
  q.nextAvailable = at;
  q.availableWrap = wrap;
  q.unpublished++;
  return true;
}

void publish(Queue& q) {
  if (q.packed) {
    if (q.first) __atomic_store_n(&q.first->next, q.firstFlags, __ATOMIC_RELEASE);
    q.first = nullptr;
  } else {
    __atomic_store_n(&q.available[1], static_cast<uint16_t>(q.nextAvailable), __ATOMIC_RELEASE);
  }
  q.published += q.unpublished;
  q.unpublished = 0;
}

int collectSplit(Queue& q, int max) {
  uint16_t index = __atomic_load_n(&q.used[1], __ATOMIC_ACQUIRE);
  uint16_t claim = index - q.nextUsed;
  if (claim > q.published) return -1;
  const Element* ring = reinterpret_cast<Element*>(q.used + 2);
  int end = claim < max ? claim : max;
  for (int row = 0; row < end; row++) {
    const Element& element = ring[(q.nextUsed + row) & (q.size - 1)];
    uint32_t id = element.id, length = element.length;
    if (id >= q.size || q.slots[id] == 0 || length > q.writable[id]) return -1;
    q.free += q.slots[id];
    q.slots[id] = 0;
    q.nextFree[q.last[id]] = q.freeHead;
    q.freeHead = id;
    q.ids[row] = id;
    q.lengths[row] = length;
  }
  q.nextUsed = (q.nextUsed + end) & 0xffff;
  q.published -= end;
  return end;
}

int collectPacked(Queue& q, int max) {
  int row = 0;
  for (; row < max; row++) {
    Descriptor& d = q.descriptors[q.nextUsed];
    uint16_t flags = __atomic_load_n(&d.next, __ATOMIC_ACQUIRE);
    if ((flags & (kAvail | kUsed)) != (q.usedWrap ? kAvail | kUsed : 0)) break;
    uint32_t id = d.flags, length = flags & kWrite ? d.length : 0;
    if (static_cast<uint32_t>(row) >= q.published || id >= q.size || q.slots[id] == 0 ||
        length > q.writable[id]) {
      return -1;
    }
    uint32_t slots = q.slots[id];
    q.slots[id] = 0;
    q.free += slots;
    q.freeIds.push_back(id);
    q.ids[row] = id;
    q.lengths[row] = length;
    q.nextUsed += slots;
    if (q.nextUsed >= q.size) {
      q.nextUsed -= q.size;
      q.usedWrap ^= 1;
    }
  }
  q.published -= row;
  return row;
}

// Uses every chain there is.
void useAll(Queue& q) {
  if (!q.packed) {
    Element* ring = reinterpret_cast<Element*>(q.used + 2);
    for (; q.deviceCursor != q.available[1]; q.deviceCursor = (q.deviceCursor + 1) & 0xffff) {
      uint32_t slot = q.deviceCursor & (q.size - 1);
      ring[slot] = {q.available[2 + slot], q.deviceWrites};
    }
    __atomic_store_n(&q.used[1], static_cast<uint16_t>(q.deviceCursor), __ATOMIC_RELEASE);
    return;
  }
  for (;;) {
    Descriptor& head = q.descriptors[q.deviceCursor];
    if ((head.next & (kAvail | kUsed)) != (q.deviceWrap ? kAvail : kUsed)) return;
    uint16_t flags = (q.deviceWrap ? kAvail | kUsed : 0) | (q.deviceWrites ? kWrite : 0);
    for (bool more = true; more;) {
      more = q.descriptors[q.deviceCursor].next & kNext;
      if (++q.deviceCursor == q.size) {
        q.deviceCursor = 0;
        q.deviceWrap ^= 1;
      }
    }
    head.length = q.deviceWrites;
    head.next = flags;
  }
}

double nanoseconds() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}

template <typename T>
T* pointer(napi_env env, napi_value array, size_t* length = nullptr) {
  void* data = nullptr;
  napi_get_typedarray_info(env, array, nullptr, length, &data, nullptr, nullptr);
  return static_cast<T*>(data);
}

// create(numbers: Int32Array {packed, size, indirect, readable, total, chainsInLap, capacity, deviceWrites},
// descriptors, available, used, tables, segments: Int32Array, addresses: Float64Array {tables, window 0, …},
// ids, lengths) -> queue number
napi_value create(napi_env env, napi_callback_info info) {
  napi_value args[9];
  size_t count = 9;
  napi_get_cb_info(env, info, &count, args, nullptr, nullptr);
  Queue* q = new Queue;
  int32_t* numbers = pointer<int32_t>(env, args[0]);
  q->packed = numbers[0];
  q->free = q->size = numbers[1];
  q->indirect = numbers[2];
  q->readable = numbers[3];
  q->total = numbers[4];
  q->chainsInLap = numbers[5];
  q->capacity = numbers[6];
  q->deviceWrites = numbers[7];
  q->descriptors = pointer<Descriptor>(env, args[1]);
  q->available = pointer<uint16_t>(env, args[2]);
  q->used = pointer<uint16_t>(env, args[3]);
  q->tables = pointer<Descriptor>(env, args[4]);
  q->segments = pointer<Segment>(env, args[5]);
  size_t length = 0;
  double* addresses = pointer<double>(env, args[6], &length);
  q->tablesAddress = addresses[0];
  q->bases.assign(addresses + 1, addresses + length);
  q->ids = pointer<uint16_t>(env, args[7]);
  q->lengths = pointer<uint32_t>(env, args[8]);
  q->slots.assign(q->size, 0);
  q->writable.assign(q->size, 0);
  q->last.assign(q->size, 0);
  for (uint32_t i = 0; i < q->size; i++) {
    q->nextFree.push_back((i + 1) & (q->size - 1));
    q->freeIds.push_back(q->size - 1 - i);
  }
  queues.push_back(q);
  napi_value number;
  napi_create_int32(env, queues.size() - 1, &number);
  return number;
}

// run(queue, laps, batch) -> nanoseconds in add, publish and collect, -1 when a chain was refused
napi_value run(napi_env env, napi_callback_info info) {
  napi_value args[3];
  size_t count = 3;
  napi_get_cb_info(env, info, &count, args, nullptr, nullptr);
  int32_t number, laps, batch;
  napi_get_value_int32(env, args[0], &number);
  napi_get_value_int32(env, args[1], &laps);
  napi_get_value_int32(env, args[2], &batch);
  Queue& q = *queues[number];
  double total = 0;
  bool good = true;
  for (int lap = 0; lap < laps && good; lap++) {
    double start = nanoseconds();
    for (uint32_t chain = 0; chain < q.chainsInLap && good;) {
      uint32_t end = chain + batch < q.chainsInLap ? chain + batch : q.chainsInLap;
      for (; chain < end && good; chain++) {
        const Segment* segments = q.segments + chain * q.total;
        good = q.packed ? addPacked(q, segments) : addSplit(q, segments);
      }
      publish(q);
    }
    total += nanoseconds() - start;
    useAll(q);
    start = nanoseconds();
    for (uint32_t left = q.chainsInLap; left > 0 && good;) {
      int collected = q.packed ? collectPacked(q, batch) : collectSplit(q, batch);
      good = collected > 0;
      left -= collected;
    }
    total += nanoseconds() - start;
  }
  napi_value result;
  napi_create_double(env, good ? total : -1, &result);
  return result;
}

}  // namespace

NAPI_MODULE_INIT() {
  napi_value function;
  napi_create_function(env, "create", NAPI_AUTO_LENGTH, create, nullptr, &function);
  napi_set_named_property(env, exports, "create", function);
  napi_create_function(env, "run", NAPI_AUTO_LENGTH, run, nullptr, &function);
  napi_set_named_property(env, exports, "run", function);
  return exports;
}
