// What scripts/gpu/ledger lets programs do on a GPU: fill it, allocate beside much live memory, race, be killed; or watch others.
//
//     cc -O2 -o ledger_guest scripts/gpu/ledger_guest.c -ldl
//     ledger_guest watch              asked for PIDs on standard input, answers with what NVML shows for each, bytes; `d`: the device
//     ledger_guest show               what is free, and all of the device as cuMemGetInfo, cuDeviceTotalMem and both forms of NVML say, bytes; its UUID
//     ledger_guest fill PATH          takes memory by PATH until it is refused, prints the bytes, and holds them
//     ledger_guest live COUNT...      COUNT:ns:ns, of an allocation and its free beside COUNT live ones: the driver's own functions, the hooked
//     ledger_guest pairs COUNT        ns of an allocation and its free, the hooked functions and the driver's own by turns
//     ledger_guest take BYTES         takes pieces of so many bytes until one is refused, prints how many, and holds them
//     ledger_guest churn SEED         allocates and frees at random until there is input; then holds what it has
//
// A program prints `ready` when it has a context, and waits for a line; `go NS` names a time of CLOCK_MONOTONIC. It holds until its
// input ends; each further line makes it ask for too much, so that its context is booked at its true size.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef int (*fn)();
typedef unsigned long long u64;
enum { OUT_OF_MEMORY = 2, MIB = 1 << 20, LINE = 4096 };
static void *driver;
static char line[LINE];

static fn find(const char *name) {
    fn found = (fn)dlsym(driver, name);
    if (!found) fprintf(stderr, "the driver has no %s\n", name), exit(3);
    return found;
}

static void must(int status, const char *what) {
    if (status) fprintf(stderr, "%s gives %d\n", what, status), exit(4);
}

static u64 now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (u64)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void begin(void) {
    void *context;
    must(find("cuInit")(0), "cuInit");
    must(find("cuDevicePrimaryCtxRetain")(&context, 0), "cuDevicePrimaryCtxRetain");
    must(find("cuCtxSetCurrent")(context), "cuCtxSetCurrent");
}

// All that the program is shown: what is more would be refused without a look at what is booked.
static int ask_too_much(void) {
    size_t available, total;
    u64 address;
    must(find("cuMemGetInfo_v2")(&available, &total), "cuMemGetInfo");
    return find("cuMemAlloc_v2")(&address, total);
}

static void say(const char *text) {
    puts(text);
    fflush(stdout);
}

// Says `ready`, waits for a line, and for the time in it.
static void wait_for_start(void) {
    say("ready");
    if (!fgets(line, sizeof line, stdin)) exit(0);
    u64 at = 0;
    if (sscanf(line, "go %llu", &at) == 1) {
        struct timespec t = {.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000};
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL)) {}
    }
}

static void hold(void) {
    while (fgets(line, sizeof line, stdin)) {
        printf("%d\n", ask_too_much());
        fflush(stdout);
    }
}

// ---- watch
static int watch(void) {
    struct { unsigned pid; u64 bytes; unsigned instance, compute; } list[512];
    void *nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW), *device;
    if (!nvml) return fprintf(stderr, "%s\n", dlerror()), 3;
    must(((fn)dlsym(nvml, "nvmlInit_v2"))(), "nvmlInit_v2");
    must(((fn)dlsym(nvml, "nvmlDeviceGetHandleByIndex_v2"))(0, &device), "nvmlDeviceGetHandleByIndex_v2");
    fn processes = (fn)dlsym(nvml, "nvmlDeviceGetComputeRunningProcesses_v3"), memory = (fn)dlsym(nvml, "nvmlDeviceGetMemoryInfo");
    while (fgets(line, sizeof line, stdin)) {
        u64 sizes[3];
        if (line[0] == 'd') {
            must(memory(device, sizes), "nvmlDeviceGetMemoryInfo");
            printf("%llu", sizes[2]);
        }
        unsigned count = 512;
        must(processes(device, &count, list), "nvmlDeviceGetComputeRunningProcesses_v3");
        for (char *word = strtok(line, " \n"); word && line[0] != 'd'; word = strtok(NULL, " \n")) {
            u64 bytes = 0;
            for (unsigned i = 0; i < count; i++)
                if (list[i].pid == strtoul(word, NULL, 10)) bytes = list[i].bytes;
            printf("%llu ", bytes);
        }
        say("");
    }
    return 0;
}

// ---- show
static int show(void) {
    size_t available = 0, total = 0, whole = 0;
    void *context, *nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW), *device;
    struct { unsigned version; u64 total, reserved, available, used; } second = {.version = 40 | 2 << 24};
    u64 first[3];
    char uuid[96];
    if (!nvml) return fprintf(stderr, "%s\n", dlerror()), 3;
    must(find("cuInit")(0), "cuInit");
    must(find("cuDeviceTotalMem_v2")(&whole, 0), "cuDeviceTotalMem");
    // With a quota of nothing there is no context.
    if (find("cuDevicePrimaryCtxRetain")(&context, 0) == 0) {
        must(find("cuCtxSetCurrent")(context), "cuCtxSetCurrent");
        must(find("cuMemGetInfo_v2")(&available, &total), "cuMemGetInfo");
    }
    must(((fn)dlsym(nvml, "nvmlInit_v2"))(), "nvmlInit_v2");
    must(((fn)dlsym(nvml, "nvmlDeviceGetHandleByIndex_v2"))(0, &device), "nvmlDeviceGetHandleByIndex_v2");
    must(((fn)dlsym(nvml, "nvmlDeviceGetMemoryInfo"))(device, first), "nvmlDeviceGetMemoryInfo");
    must(((fn)dlsym(nvml, "nvmlDeviceGetMemoryInfo_v2"))(device, &second), "nvmlDeviceGetMemoryInfo_v2");
    must(((fn)dlsym(nvml, "nvmlDeviceGetUUID"))(device, uuid, 96), "nvmlDeviceGetUUID");
    printf("%zu %zu %zu %llu %llu %s\n", available, total, whole, first[0], second.total, uuid);
    return 0;
}

// ---- fill: each path takes one piece; 0, or the driver's status
static u64 pool;

static int take_piece(const char *path, u64 bytes) {
    u64 made, size[3] = {0};
    if (!strcmp(path, "cuMemAlloc")) return find("cuMemAlloc_v2")(&made, (size_t)bytes);
    if (!strcmp(path, "cuMemAllocManaged")) return find("cuMemAllocManaged")(&made, (size_t)bytes, 1);
    if (!strcmp(path, "cuMemAllocPitch")) return find("cuMemAllocPitch_v2")(&made, size, (size_t)(1 << 16), (size_t)(bytes >> 16), 4);
    if (!strcmp(path, "cuMemAllocAsync")) return find("cuMemAllocAsync")(&made, (size_t)bytes, NULL);
    if (!strcmp(path, "cuMemAllocFromPoolAsync")) {
        unsigned char properties[88] = {[0] = 1, [8] = 1};
        if (!pool) must(find("cuMemPoolCreate")(&pool, properties), "cuMemPoolCreate");
        return find("cuMemAllocFromPoolAsync")(&made, (size_t)bytes, (void *)pool, NULL);
    }
    if (!strcmp(path, "cuMemCreate")) {
        unsigned char properties[32] = {[0] = 1, [8] = 1};
        return find("cuMemCreate")(&made, (size_t)bytes, properties, 0ULL);
    }
    if (!strcmp(path, "cuArrayCreate")) {
        // Width and height in elements of four bytes: format, unsigned 8 bits; four channels.
        struct { size_t width, height; unsigned format, channels; } shape = {1 << 14, bytes >> 16, 1, 4};
        return find("cuArrayCreate_v2")(&made, &shape);
    }
    if (!strcmp(path, "graph")) {
        unsigned char node[120] = {[0] = 1, [8] = 1};
        u64 graph, launchable, added;
        memcpy(node + 104, &bytes, 8);
        must(find("cuGraphCreate")(&graph, 0), "cuGraphCreate");
        must(find("cuGraphAddMemAllocNode")(&added, (void *)graph, NULL, (size_t)0, node), "cuGraphAddMemAllocNode");
        int status = find("cuGraphInstantiateWithFlags")(&launchable, (void *)graph, 0ULL);
        return status ? status : find("cuGraphLaunch")((void *)launchable, NULL);
    }
    fprintf(stderr, "%s is no path\n", path);
    exit(2);
}

static int fill(const char *path) {
    begin();
    ask_too_much();
    wait_for_start();
    u64 granted = 0, calls = 0;
    for (u64 bytes = 256 * MIB; bytes >= 2 * MIB; bytes /= 2) {
        int status;
        while ((status = take_piece(path, bytes)) == 0 && calls++ < 100000) granted += bytes;
        if (status != OUT_OF_MEMORY) return fprintf(stderr, "%s gives %d\n", path, status), 4;
        find("cuCtxSynchronize")();
    }
    printf("%llu\n", granted);
    fflush(stdout);
    hold();
    return 0;
}

// ---- live and pairs
static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double pair_ns(fn allocate, fn release) {
    u64 address, from = now_ns();
    must(allocate(&address, (size_t)(64 << 10)), "an allocation");
    must(release(address), "its free");
    return now_ns() - from;
}

// The driver's own function, past every preloaded library: looked up in the driver's own table (GNU hash).
static fn own(const char *name) {
    struct link_map *map;
    if (dlinfo(driver, RTLD_DI_LINKMAP, &map)) return NULL;
    const ElfW(Sym) *symbols = NULL;
    const char *names = NULL;
    const uint32_t *hash = NULL;
    for (const ElfW(Dyn) *entry = map->l_ld; entry->d_tag != DT_NULL; entry++) {
        if (entry->d_tag == DT_SYMTAB) symbols = (const void *)entry->d_un.d_ptr;
        if (entry->d_tag == DT_STRTAB) names = (const void *)entry->d_un.d_ptr;
        if (entry->d_tag == DT_GNU_HASH) hash = (const void *)entry->d_un.d_ptr;
    }
    if (!symbols || !names || !hash) return NULL;
    uint32_t wanted = 5381, buckets = hash[0], first = hash[1];
    for (const unsigned char *c = (const void *)name; *c; c++) wanted = wanted * 33 + *c;
    const uint32_t *bucket = (const void *)((const ElfW(Addr) *)(hash + 4) + hash[2]), *chain = bucket + buckets;
    for (uint32_t i = bucket[wanted % buckets]; i >= first; i++) {
        if ((chain[i - first] | 1) == (wanted | 1) && !strcmp(names + symbols[i].st_name, name)) return (fn)(map->l_addr + symbols[i].st_value);
        if (chain[i - first] & 1) break;
    }
    return NULL;
}

// Visits each number of live allocations on the way up and on the way down, several times: a machine's speed drifts. Each visit gives
// two medians: of the driver's own functions, and of those that a program finds.
static int live(int count, char **counts) {
    enum { ROUNDS = 5, PAIRS = 2001 };
    static double ns[2][PAIRS];
    begin();
    fn functions[2][2] = {{own("cuMemAlloc_v2"), own("cuMemFree_v2")}, {find("cuMemAlloc_v2"), find("cuMemFree_v2")}};
    if (!functions[0][0] || !functions[0][1]) return fprintf(stderr, "the driver's own functions are not in its table\n"), 3;
    fn allocate = functions[1][0], release = functions[1][1];
    u64 kept, made = 0, most = 0;
    for (int i = 0; i < count; i++) most = strtoull(counts[i], NULL, 10) > most ? strtoull(counts[i], NULL, 10) : most;
    u64 *addresses = calloc(most + 1, sizeof(u64));
    if (!addresses) return fprintf(stderr, "no memory for %llu addresses\n", most), 3;
    must(allocate(&kept, (size_t)(64 << 10)), "an allocation"); // its block stays in use
    wait_for_start();
    for (int visit = 0; visit < ROUNDS * 2 * count; visit++) {
        int step = visit % (2 * count);
        u64 wanted = strtoull(counts[step < count ? step : 2 * count - 1 - step], NULL, 10);
        for (; made < wanted; made++) must(allocate(&addresses[made], (size_t)(32 << 10)), "a live allocation");
        while (made > wanted) must(release(addresses[--made]), "the free of a live allocation");
        for (int j = -100; j < PAIRS; j++)
            for (int turn = 0; turn < 2; turn++) {
                int which = (j + turn) & 1;
                double took = pair_ns(functions[which][0], functions[which][1]);
                if (j >= 0) ns[which][j] = took;
            }
        printf("%llu", wanted);
        for (int which = 0; which < 2; which++) {
            qsort(ns[which], PAIRS, sizeof **ns, ascending);
            printf(":%.0f", ns[which][PAIRS / 2]);
        }
        printf(" ");
    }
    say("");
    hold();
    return 0;
}

static int pairs(int count) {
    begin();
    fn functions[2][2] = {{own("cuMemAlloc_v2"), own("cuMemFree_v2")}, {find("cuMemAlloc_v2"), find("cuMemFree_v2")}};
    if (!functions[0][0] || !functions[0][1]) return fprintf(stderr, "the driver's own functions are not in its table\n"), 3;
    u64 kept;
    must(functions[1][0](&kept, (size_t)(64 << 10)), "an allocation"); // its block stays in use
    wait_for_start();
    double *ns[2] = {malloc(count * sizeof(double)), malloc(count * sizeof(double))};
    for (int i = -100; i < count; i++)
        for (int turn = 0; turn < 2; turn++) {
            int which = (i + turn) & 1; // Each goes first every other time.
            double took = pair_ns(functions[which][0], functions[which][1]);
            if (i >= 0) ns[which][i] = took;
        }
    for (int which = 0; which < 2; which++) {
        for (int i = 0; i < count; i++) printf("%.0f ", ns[which][i]);
        say("");
    }
    hold();
    return 0;
}

// ---- take and churn
static int take(u64 bytes) {
    begin();
    ask_too_much();
    wait_for_start();
    fn allocate = find("cuMemAlloc_v2");
    u64 address, pieces = 0;
    int status;
    while ((status = allocate(&address, (size_t)bytes)) == 0) pieces++;
    printf("%llu %d\n", pieces, status);
    fflush(stdout);
    hold();
    return 0;
}

static int churn(unsigned seed) {
    enum { PIECES = 32 };
    u64 held[PIECES] = {0};
    unsigned kinds[PIECES] = {0};
    unsigned char properties[32] = {[0] = 1, [8] = 1};
    struct pollfd input = {.fd = 0, .events = POLLIN};
    begin();
    fn allocate = find("cuMemAlloc_v2"), release = find("cuMemFree_v2"), async = find("cuMemAllocAsync"),
       release_async = find("cuMemFreeAsync"), create = find("cuMemCreate"), drop = find("cuMemRelease");
    say("ready");
    while (poll(&input, 1, 0) == 0) {
        unsigned piece = rand_r(&seed) % PIECES, kind = rand_r(&seed) % 3;
        size_t bytes = (size_t)(1 + rand_r(&seed) % 24) << (kind == 2 ? 21 : 18 + rand_r(&seed) % 5);
        int status;
        if (held[piece]) {
            u64 memory = held[piece];
            held[piece] = 0;
            status = kinds[piece] == 0 ? release(memory) : kinds[piece] == 1 ? release_async(memory, NULL) : drop(memory);
        } else {
            u64 *memory = &held[piece];
            kinds[piece] = kind;
            status = kind == 0 ? allocate(memory, bytes) : kind == 1 ? async(memory, bytes, NULL) : create(memory, bytes, properties, 0ULL);
            if (status) held[piece] = 0;
        }
        if (status && status != OUT_OF_MEMORY) return fprintf(stderr, "a call gives %d\n", status), 4;
    }
    must(find("cuCtxSynchronize")(), "cuCtxSynchronize");
    hold();
    return 0;
}

int main(int count, char **arguments) {
    const char *what = count > 1 ? arguments[1] : "";
    if (!strcmp(what, "watch")) return watch();
    driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!driver) return fprintf(stderr, "%s\n", dlerror()), 3;
    if (!strcmp(what, "show")) return show();
    if (count < 3) return fprintf(stderr, "usage: ledger_guest watch | show | fill PATH | live COUNT... | pairs COUNT | take BYTES | churn SEED\n"), 2;
    if (!strcmp(what, "fill")) return fill(arguments[2]);
    if (!strcmp(what, "live")) return live(count - 2, arguments + 2);
    if (!strcmp(what, "pairs")) return pairs(atoi(arguments[2]));
    if (!strcmp(what, "take")) return take(strtoull(arguments[2], NULL, 10));
    if (!strcmp(what, "churn")) return churn(strtoul(arguments[2], NULL, 10));
    return fprintf(stderr, "%s is nothing that it does\n", what), 2;
}
