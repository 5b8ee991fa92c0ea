// cuota's shared memory, for readers in other languages. Written by scripts/regenerate-header from crates/region; do
// not edit.
//
// Three kinds of file lie below $CUOTA_DIR (default /dev/shm/cuota). The number in their names is the layout's major
// version; a reader also checks the magic number, the layout hash and the length before it believes anything.
//
//   policy.v1             struct cuota_policy_file   written by the operator
//   tenant/NAME.v1        struct cuota_tenant_file   written by that tenant's processes
//   tenant/NAME.v1.live   no content                 the process at place n holds a POSIX record lock on byte n
//
// Every field is an atomic of its size, in the machine's byte order (little-endian): load each with one access of that
// width, relaxed where nothing else is said. There is no lock to take. Map the files read-only; a tenant's file is
// hostile input for everybody else, so bound every index by the constants here, not by what the file says. A tenant's
// usage on a GPU is the sum of `booked` over the lines of that GPU whose `life` has bit 0 set and whose place's byte of
// the live file is locked (fcntl F_GETLK: the lock's type tells, never its pid). Fields named `reserved` are 0.

#ifndef CUOTA_H
#define CUOTA_H

#include <stdint.h>

#if defined(__STDC_VERSION__) && __STDC_VERSION__ >= 202311L
#define CUOTA_ALIGNED(n) alignas(n)
#elif defined(__GNUC__)
#define CUOTA_ALIGNED(n) __attribute__((aligned(n)))
#else
#error "cuota.h needs a compiler that can align a structure"
#endif

// "cuotaPOL" as it stands in the file.
#define CUOTA_POLICY_MAGIC UINT64_C(0x4c4f5061746f7563)
#define CUOTA_POLICY_LAYOUT_HASH UINT64_C(0x5f715882580ce7fe)

// "cuotaTEN" as it stands in the file.
#define CUOTA_TENANT_MAGIC UINT64_C(0x4e455461746f7563)
#define CUOTA_TENANT_LAYOUT_HASH UINT64_C(0xb216f26e4d96cd88)

// "cuotaARE" as it stands in the file.
#define CUOTA_ARENA_MAGIC UINT64_C(0x45524161746f7563)
#define CUOTA_ARENA_LAYOUT_HASH UINT64_C(0xae0a007c8871faed)

// The layout's major version. It is part of the file's name too, so two versions can live side by side.
#define CUOTA_LAYOUT_MAJOR 1

// How many entries the file has room for.
#define CUOTA_POLICY_ENTRIES 1024

// The header of a file. All fields are written once, before the file gets its name, except `epoch`.
struct CUOTA_ALIGNED(64) cuota_header {
  // The first eight bytes of the file say what it is. Stored last (release): load it first (acquire).
  uint64_t magic;
  // The layout's major version.
  uint32_t major;
  // This header's size, bytes.
  uint32_t header_bytes;
  // A hash over sizes and offsets: another value is another layout, whatever the version says.
  uint64_t layout_hash;
  // The file's length, bytes.
  uint64_t file_bytes;
  // Raised by each change of the content; processes may sleep on it (futex).
  uint32_t epoch;
  uint32_t reserved[7];
};

// Whose limits an entry holds, and which copy of them is in use.
struct CUOTA_ALIGNED(64) cuota_policy_key {
  // The tenant's name: up to 31 ASCII characters, then NUL.
  uint64_t tenant[4];
  // The GPU's UUID as two numbers, its first byte the highest of the first; both 0: any GPU.
  uint64_t gpu[2];
  // Bit 0: the copy in use. Bit 1: there is an entry. The rest: a generation. Load it (acquire), read name, GPU and
  // that copy (relaxed), fence (acquire), load it again (relaxed): only if it is the same was all of one moment.
  uint64_t select;
  uint64_t reserved;
};

// One copy of an entry's limits.
struct CUOTA_ALIGNED(64) cuota_policy_limits {
  // The memory quota, bytes; all ones: none. It counts while `memory_ppm` is 0.
  uint64_t memory_bytes;
  // The memory quota in parts per million of the GPU's memory; 0: it is in `memory_bytes`.
  uint32_t memory_ppm;
  // Never more than this share of the GPU's time, parts per million.
  uint32_t compute_cap_ppm;
  // Never less, parts per million.
  uint32_t guarantee_ppm;
  // One more than its weight, by which what nobody is guaranteed is divided; 0: the usual weight, 100.
  uint32_t weight;
  // One more than its priority: 1 low, 2 normal, 3 high; 0: normal.
  uint32_t priority;
  // Bit 0: made for one program, to be removed when nothing of it runs.
  uint32_t flags;
  uint64_t reserved[4];
};

// Whose limits, and the limits in two copies.
struct CUOTA_ALIGNED(64) cuota_policy_entry {
  struct cuota_policy_key key;
  struct cuota_policy_limits copies[2];
};

// `policy.v1`. Written by the operator alone, one writer at a time; tenants map it read-only.
struct CUOTA_ALIGNED(64) cuota_policy_file {
  struct cuota_header header;
  struct cuota_policy_entry entries[CUOTA_POLICY_ENTRIES];
};

// How many processes a tenant can have at a time.
#define CUOTA_TENANT_PROCESSES 1024

// How many GPUs a tenant can use.
#define CUOTA_TENANT_GPUS 16

// How many shared objects a process can have and be charged for once among all that hold them.
#define CUOTA_TENANT_SHARES 128

// How many events are kept.
#define CUOTA_EVENTS 1024

// Facts about the tenant as a whole, hints all: nothing depends on them for being right.
struct CUOTA_ALIGNED(64) cuota_tenant_summary {
  // The tenant's name: up to 31 ASCII characters, then NUL.
  uint64_t name[4];
  // One more than the highest place ever taken: a sum looks no further.
  uint32_t high_water;
  // 1 once any process has shared memory with another: until then nobody looks through `shares`.
  uint32_t sharing;
  // When the last sweep for dead processes began, CLOCK_MONOTONIC ns; odd until it has ended.
  uint64_t swept_ns;
  // How often a share ended: whoever counts shares twice tells by it whether they stayed the same.
  uint64_t unshared;
  // Which live file is in force: another, and its locks say nothing. Its inode number, with the device's above.
  uint64_t live;
};

// A GPU that the tenant uses; its place in the table is its index in the books.
struct CUOTA_ALIGNED(64) cuota_tenant_gpu {
  // Its UUID as two numbers, its first byte the highest of the first; the first is 0 while the entry is free.
  uint64_t uuid[2];
  // The most that a process's context, modules and local memory were seen to take, bytes.
  uint64_t overhead_bytes;
  // The device's memory as CUDA counts it, bytes; 0 until a process has looked.
  uint64_t total_bytes;
  // The budget of GPU time, shared by the tenant's processes: two horizons of cuota-governor's `budget`, 0 at first.
  uint64_t window;
  // The second of them.
  uint64_t period;
  // GPU time used under a cap, ns.
  uint64_t used_ns;
  // Time that launches have waited for the budget, ns, summed over threads.
  uint64_t throttled_ns;
};

// A place for a process.
struct CUOTA_ALIGNED(64) cuota_tenant_place {
  // A generation, with bit 0 set while a process lives here. Never the same twice.
  uint64_t life;
  // Its id in its own PID namespace. For people: whether it lives is told by the lock of its byte in the live file.
  uint32_t pid;
  // Its effective user id.
  uint32_t uid;
  // When it joined, CLOCK_MONOTONIC ns.
  uint64_t joined_ns;
  // Its PID namespace, by inode number; 0: unknown.
  uint64_t pid_namespace;
  // Set when it was found dead: 24 bits of the life that ended, then 40 of the time, CLOCK_MONOTONIC ms. Of another life it
  // means nothing.
  uint64_t died;
  // One more than the highest entry of its `shares` ever used.
  uint32_t shares;
  // Pools of other processes that it has opened, in the low 31 bits; above them whether others can open pools of its own.
  uint32_t pools;
  // When its process was started, in the kernel's ticks since boot (`/proc/PID/stat`): with `pid`, which process it is. 0: unknown.
  uint64_t started;
  uint64_t reserved_too;
};

// What one process has booked on one GPU.
struct CUOTA_ALIGNED(64) cuota_tenant_line {
  // The `life` of the place that the line belongs to; it counts while bit 0 is set.
  uint64_t life;
  // In units of 64 KiB: of what is booked, what may still be taken back, in the lowest 29 bits, and all that is booked in the
  // next 29; above them the lowest six bits of `life` shifted right by one. One word, so that one instruction changes all. Written
  // by the process itself, and after its death by who takes out of it what is gone. What has been moved to a next place is closed:
  // nothing is booked here, and the six bits are another life's.
  uint64_t booked;
  // Of what is booked, bytes for contexts, modules and local memory.
  uint64_t overhead;
  // Allocations refused.
  uint64_t refused;
  // Of what is booked, bytes of memory pools, if others can open them: these may outlive the process.
  uint64_t pools;
  // GPU time that its work in flight had taken when it last looked, ns: what its tenant is charged if it dies. With the highest bit, of
  // a process that may not look again: since when that work may have been there.
  uint64_t in_flight_ns;
  // Of it, what the budget does not have yet, ns; with that bit what the budget has.
  uint64_t owed_ns;
  uint64_t reserved;
};

// Memory that a process holds and that others may hold too: each of them books it, and all but one of them in vain.
struct cuota_tenant_share {
  // A hash of the handle that goes from process to process; 0: free.
  uint64_t key;
  // The GPU's index in the high 32 bits, and the size in units of 64 KiB in the low.
  uint64_t what;
};

// One place in the ring.
struct CUOTA_ALIGNED(64) cuota_event {
  // The event's number plus one; 0 while it is being written. Load it (acquire), read the rest (relaxed), fence
  // (acquire), load it again (relaxed): only if it is the same is the rest whole.
  uint64_t number;
  // When, CLOCK_MONOTONIC ns.
  uint64_t time_ns;
  // 1 refused (a asked, b booked, c quota), 2 grew inside a call (a), 3 a dead process's books closed (a pid,
  // b booked), 4 rejoined (a booked), 5 NVML could not be asked (a its error), 6 not granted for another reason than its size
  // (a: 1 another tenant's pool, 2 a full table, 3 a library that was ended, 4 of unknown size), 7 a variable of HAMi's or
  // FCSP's, or CUOTA_HELPER, is not followed (a: which, b: 1 unreadable, 2 not supported, 3 its file cannot be used, 4 overruled, c: of 3 the error, of
  // 4 by what: 0 a policy, 1 its file), or (b: 5) our own files of the container lie in the next best place (c: 1 its disk, 2 beside
  // the file). Amounts in bytes.
  uint32_t what;
  // The process that it happened to, in its own PID namespace.
  uint32_t pid;
  // See `what`; so are the next two.
  uint64_t a;
  uint64_t b;
  uint64_t c;
  uint64_t reserved[2];
};

// The ring.
struct CUOTA_ALIGNED(64) cuota_events {
  // How many events there ever were; the last of them are in the ring, number `n` at `n` modulo its length.
  uint64_t next;
  uint64_t reserved[7];
  struct cuota_event ring[CUOTA_EVENTS];
};

// `tenant/NAME.v1`. Written by the tenant's processes, each its own lines: for everybody else it is hostile input.
struct CUOTA_ALIGNED(64) cuota_tenant_file {
  struct cuota_header header;
  struct cuota_tenant_summary summary;
  struct cuota_tenant_gpu gpus[CUOTA_TENANT_GPUS];
  struct cuota_tenant_place places[CUOTA_TENANT_PROCESSES];
  // By GPU, then by the process's place. A tenant's usage is the sum over the lines that count.
  struct cuota_tenant_line books[CUOTA_TENANT_GPUS][CUOTA_TENANT_PROCESSES];
  struct cuota_events events;
  // By the process's place. Last, and the largest.
  struct cuota_tenant_share shares[CUOTA_TENANT_PROCESSES][CUOTA_TENANT_SHARES];
};

// How many tenants of a GPU can take turns.
#define CUOTA_ARENA_SEATS 64

// A process that takes part holds the record lock of one of so many bytes of the file: so it is told from one that does not.
#define PROCESSES 128

// Whose turn it is, and what was noticed.
struct CUOTA_ALIGNED(64) cuota_arena_desk {
  // The turn: `cuota_governor::turn`. One word, so that one instruction hands it over.
  uint64_t turn;
  // Turns that passed.
  uint64_t passed;
  // Turns that others ended: not accepted, or not handed over in time.
  uint64_t ended;
  // What made no sense.
  uint64_t rubbish;
  // How often a tenant took a seat, or came back to one that it had not used for long: who was alone may not be so any more.
  uint64_t comings;
  // When somebody last saw that turns are nothing here, ns: a process on the GPU that takes none, or MPS. 0: never.
  uint64_t outsiders_ns;
  uint64_t reserved[2];
};

// A tenant's place in the circle.
struct CUOTA_ALIGNED(64) cuota_arena_place {
  // A hash of the tenant's name; 0: free.
  uint64_t tenant;
  // What it is entitled to: `cuota_governor::entitlement`, 0: nothing in particular.
  uint64_t entitlement;
  // When it last asked for a turn, ns; 0: it does not want any.
  uint64_t asks;
  // Until when it has had its share, ns: `cuota_governor::arbiter`.
  uint64_t horizon;
  // How long it has had the turn in all, ns.
  uint64_t held_ns;
  // When one of its processes was last here, ns.
  uint64_t seen_ns;
  // Raised when it is offered a turn; its processes sleep on it (futex).
  uint32_t bell;
  // Turns that others ended.
  uint32_t ended;
  uint64_t reserved;
};

// `arena/GPU.v1`. Written by all tenants of the GPU: for each of them it is hostile input.
struct CUOTA_ALIGNED(64) cuota_arena_file {
  struct cuota_header header;
  struct cuota_arena_desk desk;
  struct cuota_arena_place places[CUOTA_ARENA_SEATS];
};

#endif // CUOTA_H
