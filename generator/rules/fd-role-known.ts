import type { Rule } from './rule.js';
import { messagesFiles } from './walk.js';

export const fdRoleKnown: Rule = {
  code: 'fd-role-known',
  summary: 'File descriptors are for what the file lists, and everything it lists is used.',
  check({ model }, report) {
    for (const file of messagesFiles(model)) {
      const known = new Set(file.fdRoles.map((role) => role.name));
      const used = new Set<string>();
      const use = (item: object, key: string, role: string | null): void => {
        if (role === null) return;
        used.add(role);
        if (!known.has(role)) report(item, key, `'${role}' is not one of the file's fd-roles`);
      };
      for (const { fds, reply } of file.requests) {
        use(fds, 'role', fds.role);
        if (reply.kind === 'payload') use(reply, 'fds', reply.fdRole);
        if (reply.when?.then.kind === 'payload') use(reply.when.then, 'fds', reply.when.then.fdRole);
      }
      for (const role of file.fdRoles) {
        if (!used.has(role.name)) report(role, 'name', `no file descriptor is for '${role.name}'`);
      }
    }
  },
};
