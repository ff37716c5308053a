// The yardstick of `npm run bench -- ring`: a device's side of split and packed rings, as plain and as quick as C++ -O2
// makes it, with the checks of the TypeScript loops and the same tables to fill. Not a product: what those loops leave
// to their thorough walk is an error here.
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

constexpr uint16_t kNext = 1, kWrite = 2, kIndirect = 4, kAvail = 1 << 7, kUsed = 1 << 15;

struct Span {
  uint64_t start;
  uint64_t end;
  uint8_t* bytes;
  int32_t window;
};

struct Queue {
  bool packed;
  uint32_t size;
  Descriptor* descriptors;
  uint16_t* available;
  uint16_t* used;
  std::vector<Span> spans;
  int32_t* chains;
  int32_t* segments;
  uint32_t* written;
  uint32_t segmentCapacity;
  std::vector<uint16_t> slots;
  std::vector<uint32_t> writable;
  uint32_t plainLength;
  uint32_t nextAvailable = 0, nextUsed = 0, free, availableWrap = 1, usedWrap = 1;
  uint32_t span = 0;
  // The driver's part: what a lap offers, and where it stands.
  std::vector<Descriptor> offers;  // packed: all descriptors of a lap; split: `next` names the head
  uint32_t chainsInLap;
  uint32_t driverCursor = 0, driverWrap = 1;
};

std::vector<Queue*> queues;

inline const Span* findSpan(const Queue& q, uint64_t address, uint32_t length, uint32_t& cached) {
  uint32_t bottom = 0, top = q.spans.size() - 1;
  while (bottom < top) {
    uint32_t middle = (bottom + top + 1) >> 1;
    if (q.spans[middle].start <= address) bottom = middle;
    else top = middle - 1;
  }
  cached = bottom;
  const Span& span = q.spans[bottom];
  return address >= span.start && address + length <= span.end ? &span : nullptr;
}

int drainSplit(Queue& q, int max) {
  uint16_t index = __atomic_load_n(&q.available[1], __ATOMIC_ACQUIRE);
  uint16_t pending = index - q.nextAvailable;
  if (pending > q.free) return -1;
  int end = pending < max ? pending : max;
  const Span* span = &q.spans[q.span];
  int32_t* segment = q.segments;
  int32_t* const segmentEnd = q.segments + q.segmentCapacity * 4;
  uint32_t next = q.nextAvailable;
  const uint32_t size = q.size;
  int row = 0;
  for (; row < end; row++) {
    uint32_t head = q.available[2 + (next & (size - 1))];
    if (head >= size || q.slots[head] != 0) return -1;
    const Descriptor* table = q.descriptors;
    uint32_t bound = size, at = head, budget = size, readable = 0, written = 0;
    int32_t* first = segment;
    for (;;) {
      const Descriptor& d = table[at];
      uint64_t address = d.address;
      uint32_t length = d.length, flags = d.flags, link = d.next;
      if (length - 1 >= q.plainLength) return -1;
      if (!(address >= span->start && address + length <= span->end)) {
        span = findSpan(q, address, length, q.span);
        if (!span) return -1;
      }
      if (flags & kIndirect) {
        if (table != q.descriptors || (flags & kNext) || (length & 15) || length > size * 16) return -1;
        table = reinterpret_cast<const Descriptor*>(span->bytes + (address - span->start));
        bound = length / 16;
        at = 0;
        continue;
      }
      if (segment >= segmentEnd) return -1;
      segment[0] = span->window;
      segment[1] = static_cast<int32_t>(address - span->start);
      segment[2] = length;
      segment[3] = flags & kWrite;
      segment += 4;
      if (flags & kWrite) written += length;
      else if (written) return -1;
      else readable++;
      if (!(flags & kNext)) break;
      at = link;
      if (at >= bound || --budget == 0) return -1;
    }
    int32_t* chain = q.chains + row * 4;
    chain[0] = head;
    chain[1] = (first - q.segments) >> 2;
    chain[2] = readable;
    chain[3] = ((segment - first) >> 2) - readable;
    q.slots[head] = 1;
    q.writable[head] = written;
    next++;
  }
  q.nextAvailable = next & 0xffff;
  q.free -= row;
  return row;
}

int pushSplit(Queue& q, int count) {
  struct Element {
    uint32_t id, length;
  };
  Element* ring = reinterpret_cast<Element*>(q.used + 2);
  uint32_t next = q.nextUsed;
  for (int row = 0; row < count; row++) {
    uint32_t head = q.chains[row * 4];
    uint32_t bytes = q.written[row];
    if (head >= q.size || q.slots[head] == 0 || bytes > q.writable[head]) return -1;
    q.slots[head] = 0;
    ring[next & (q.size - 1)] = {head, bytes};
    next++;
  }
  q.nextUsed = next & 0xffff;
  q.free += count;
  __atomic_store_n(&q.used[1], static_cast<uint16_t>(next), __ATOMIC_RELEASE);
  return count;
}

int drainPacked(Queue& q, int max) {
  const Span* span = &q.spans[q.span];
  int32_t* segment = q.segments;
  int32_t* const segmentEnd = q.segments + q.segmentCapacity * 4;
  const uint32_t size = q.size;
  uint32_t cursor = q.nextAvailable, wrap = q.availableWrap, free = q.free;
  int row = 0;
  for (; row < max; row++) {
    uint16_t head = __atomic_load_n(&q.descriptors[cursor].next, __ATOMIC_ACQUIRE);
    if ((head & (kAvail | kUsed)) != (wrap ? kAvail : kUsed)) break;
    if (free == 0) return -1;
    const Descriptor* d = &q.descriptors[cursor];
    bool direct = true;
    uint32_t taken = 0, left = 0, id = 0, readable = 0, written = 0, index = cursor, indexWrap = wrap;
    int32_t* first = segment;
    for (;;) {
      uint64_t address = d->address;
      uint32_t length = d->length, flags = d->next, tag = d->flags;
      if (length - 1 >= q.plainLength) return -1;
      if (!(address >= span->start && address + length <= span->end)) {
        span = findSpan(q, address, length, q.span);
        if (!span) return -1;
      }
      if (flags & kIndirect) {
        if (!direct || (flags & kNext) || (length & 15) || length + taken * 16 > size * 16) return -1;
        taken++;
        if (++index == size) {
          index = 0;
          indexWrap ^= 1;
        }
        id = tag;
        direct = false;
        left = length / 16;
        d = reinterpret_cast<const Descriptor*>(span->bytes + (address - span->start));
        continue;
      }
      if (segment >= segmentEnd) return -1;
      segment[0] = span->window;
      segment[1] = static_cast<int32_t>(address - span->start);
      segment[2] = length;
      segment[3] = flags & kWrite;
      segment += 4;
      if (flags & kWrite) written += length;
      else if (written) return -1;
      else readable++;
      if (direct) {
        taken++;
        if (++index == size) {
          index = 0;
          indexWrap ^= 1;
        }
        if (!(flags & kNext)) {
          id = tag;
          break;
        }
        if (taken == free) return -1;
        d = &q.descriptors[index];
      } else {
        if (--left == 0) break;
        d++;
      }
    }
    if (id >= size || q.slots[id] != 0) return -1;
    int32_t* chain = q.chains + row * 4;
    chain[0] = id;
    chain[1] = (first - q.segments) >> 2;
    chain[2] = readable;
    chain[3] = ((segment - first) >> 2) - readable;
    q.slots[id] = taken;
    q.writable[id] = written;
    free -= taken;
    cursor = index;
    wrap = indexWrap;
  }
  q.nextAvailable = cursor;
  q.availableWrap = wrap;
  q.free = free;
  return row;
}

int pushPacked(Queue& q, int count) {
  uint32_t next = q.nextUsed, wrap = q.usedWrap;
  uint16_t* pending = nullptr;
  uint16_t pendingFlags = 0;
  for (int row = 0; row < count; row++) {
    uint32_t id = q.chains[row * 4];
    uint32_t bytes = q.written[row];
    if (id >= q.size || q.slots[id] == 0 || bytes > q.writable[id]) return -1;
    uint32_t taken = q.slots[id];
    q.slots[id] = 0;
    Descriptor& d = q.descriptors[next];
    uint16_t flags = (wrap ? kAvail | kUsed : 0) | (bytes ? kWrite : 0);
    d.length = bytes;
    d.flags = id;
    if (!pending) {
      pending = &d.next;
      pendingFlags = flags;
    } else {
      d.next = flags;
    }
    q.free += taken;
    next += taken;
    if (next >= q.size) {
      next -= q.size;
      wrap ^= 1;
    }
  }
  q.nextUsed = next;
  q.usedWrap = wrap;
  if (pending) __atomic_store_n(pending, pendingFlags, __ATOMIC_RELEASE);
  return count;
}

void refill(Queue& q) {
  if (!q.packed) {
    uint16_t index = q.available[1];
    for (const Descriptor& offer : q.offers) q.available[2 + (index++ & (q.size - 1))] = offer.next;
    __atomic_store_n(&q.available[1], index, __ATOMIC_RELEASE);
    return;
  }
  for (const Descriptor& offer : q.offers) {
    Descriptor& d = q.descriptors[q.driverCursor];
    d = offer;
    d.next |= q.driverWrap ? kAvail : kUsed;
    if (++q.driverCursor == q.size) {
      q.driverCursor = 0;
      q.driverWrap ^= 1;
    }
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

// create(numbers: Int32Array {packed, size, segmentCapacity, plainLength, chainsInLap}, descriptors, available, used, chains,
// segments, written, offers, spans: Float64Array {start, end, window}…, windows: Uint8Array…) -> queue number
napi_value create(napi_env env, napi_callback_info info) {
  napi_value args[16];
  size_t count = 16;
  napi_get_cb_info(env, info, &count, args, nullptr, nullptr);
  Queue* q = new Queue;
  int32_t* numbers = pointer<int32_t>(env, args[0]);
  q->packed = numbers[0];
  q->free = q->size = numbers[1];
  q->segmentCapacity = numbers[2];
  q->plainLength = numbers[3];
  q->chainsInLap = numbers[4];
  q->descriptors = pointer<Descriptor>(env, args[1]);
  q->available = pointer<uint16_t>(env, args[2]);
  q->used = pointer<uint16_t>(env, args[3]);
  q->chains = pointer<int32_t>(env, args[4]);
  q->segments = pointer<int32_t>(env, args[5]);
  q->written = pointer<uint32_t>(env, args[6]);
  size_t length = 0;
  Descriptor* offers = pointer<Descriptor>(env, args[7], &length);
  q->offers.assign(offers, offers + length / sizeof(Descriptor));
  double* spans = pointer<double>(env, args[8], &length);
  for (size_t i = 0; i < length / 3; i++) {
    uint8_t* bytes = pointer<uint8_t>(env, args[9 + i]);
    q->spans.push_back({static_cast<uint64_t>(spans[i * 3]), static_cast<uint64_t>(spans[i * 3 + 1]), bytes,
                        static_cast<int32_t>(spans[i * 3 + 2])});
  }
  q->slots.assign(q->size, 0);
  q->writable.assign(q->size, 0);
  queues.push_back(q);
  napi_value number;
  napi_create_int32(env, queues.size() - 1, &number);
  return number;
}

// run(queue, laps, batch) -> nanoseconds in drain and push, -1 when a chain was refused
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
    refill(q);
    double start = nanoseconds();
    for (uint32_t left = q.chainsInLap; left > 0;) {
      int drained = q.packed ? drainPacked(q, batch) : drainSplit(q, batch);
      int pushed = drained <= 0 ? drained : q.packed ? pushPacked(q, drained) : pushSplit(q, drained);
      if (pushed <= 0) {
        good = false;
        break;
      }
      left -= pushed;
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
