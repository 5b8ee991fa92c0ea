/* Makes the calls that it is told to on its standard input, one a line, and answers each with a line: the status and what
 * the call wrote, in hexadecimal. So a test says what a guest does, and looks at the books between two calls.
 *
 *   call NAME ARGUMENT...          a function of the driver or of NVML; an argument is a number,
 *                                  b:HEX a pointer to these bytes, z:N a pointer to N zeros, t:TEXT a text,
 *                                  p:HEX an array of one pointer, to these bytes;
 *                                  NAME may be WAY!NAME: found in that way (see find_in), or the answer is -404
 *   repeat COUNT NAME ARGUMENT...  the same up to COUNT times, while it succeeds; writes how often it did (8 bytes)
 *   threads N COUNT NAME ARGUMENT...  the same in N threads at once, with the context that is current here; the answer comes when all
 *                                  have ended: the status of one that failed, and how often they did (8 bytes)
 *   host STREAM NAME ARGUMENT...   the same once, in a host function of the stream; the answer comes when that has returned
 *   churn SEED                     allocates and frees at random until it is killed or there is more input, which it
 *                                  does not read; the status is 0, or that of a call that failed for another reason than
 *                                  want of memory
 *   fly BYTES | land               a thread allocates, and is held in the middle of the driver's call until `land`, which answers with
 *                                  the status and the address (8 bytes)
 *   at NS                          waits for a time of CLOCK_MONOTONIC
 *   fork                           a child takes over until `end`; then its wait status is the answer
 *   exec                           the program executes itself; no answer
 *   spawn vfork|posix_spawn        a child that executes the program takes over until `end`; no answer before that
 *   takefd PID FD                  takes a descriptor of another process; the status is -1 where that is forbidden
 *   closefrom FD | openas FD       closes descriptors from FD on | opens /dev/null as FD
 *   setenv NAME VALUE | unsetenv NAME | putenv NAME=VALUE | clearenv
 *   pid                            its process id (8 bytes)
 *   end                            ends, as the end of the input does
 */
#include "guest.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

enum { ARGUMENTS = 14, LINE = 1 << 16, NOT_FOUND = -404 };

typedef int (*any_fn)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                      uint64_t, uint64_t, uint64_t, uint64_t);

struct argument {
    uint64_t value;
    unsigned char *bytes; /* where the value points to, or NULL */
    size_t count;
};

/* Byte by byte, so that nothing is left in a buffer that a child, or the program after exec, would miss. */
static int read_line(char *line) {
    for (size_t i = 0; i < LINE; i++) {
        if (read(0, line + i, 1) != 1) return 0;
        if (line[i] == '\n') {
            line[i] = 0;
            return 1;
        }
    }
    return 0;
}

static void answer_bytes(long status, const void *bytes, size_t count) {
    printf("%ld ", status);
    for (size_t i = 0; i < count; i++) printf("%02x", ((const unsigned char *)bytes)[i]);
    printf("\n");
    fflush(stdout);
}

static void answer(long status) {
    answer_bytes(status, NULL, 0);
}

#ifdef LINKED /* with -lcuda, and the list of its functions */
#define X(name) extern int name() __attribute__((weak));
#include LINKED
#undef X
#define X(name) {#name, (any_fn)(uintptr_t)name},
static const struct { const char *name; any_fn function; } linked[] = {
#include LINKED
};
#endif

static any_fn find_linked(const char *name) {
#ifdef LINKED
    for (size_t i = 0; i < sizeof linked / sizeof linked[0]; i++)
        if (strcmp(linked[i].name, name) == 0) return linked[i].function;
#endif
    (void)name;
    return NULL;
}

/* The driver's own look-up, of CUDA 11.3 or 12.0: NAME!VERSION!FLAGS. */
static any_fn find_by_driver(void *driver, int is_new, char *name) {
    char *version = strchr(name, '!'), *flags = version ? strchr(version + 1, '!') : NULL;
    void *function = NULL;
    int found = 0;
    if (!flags) return NULL;
    *version++ = *flags++ = 0;
    if (is_new) {
        proc_v2_fn ask = (proc_v2_fn)dlsym(driver, "cuGetProcAddress_v2");
        if (!ask || ask(name, &function, atoi(version), strtoul(flags, NULL, 0), &found)) return NULL;
    } else {
        proc_fn ask = (proc_fn)dlsym(driver, "cuGetProcAddress");
        if (!ask || ask(name, &function, atoi(version), strtoul(flags, NULL, 0))) return NULL;
    }
    return (any_fn)function;
}

static any_fn find_in(const char *way, char *name) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    if (!driver) return NULL;
    if (strcmp(way, "linked") == 0) return find_linked(name);
    if (strcmp(way, "dlsym") == 0) return (any_fn)dlsym(driver, name);
    if (strcmp(way, "default") == 0) return (any_fn)dlsym(RTLD_DEFAULT, name);
    if (strcmp(way, "next") == 0) return (any_fn)dlsym(RTLD_NEXT, name);
    if (strcmp(way, "dlvsym") == 0) return (any_fn)dlvsym(driver, name, "libcuda.so.1");
    if (strcmp(way, "proc") == 0 || strcmp(way, "proc2") == 0) return find_by_driver(driver, way[4] == '2', name);
    if (strcmp(way, "runtime") == 0) {
        static void *runtime;
        const char *path = getenv("CUOTA_CUDART");
        if (!runtime && path) runtime = dlopen(path, RTLD_NOW);
        if (!runtime) runtime = dlopen("libcudart.so.13", RTLD_NOW);
        if (!runtime) runtime = dlopen("libcudart.so.12", RTLD_NOW);
        return runtime ? (any_fn)dlsym(runtime, name) : NULL;
    }
    if (strcmp(way, "namespace") == 0) {
        static void *other;
        if (!other) other = dlmopen(LM_ID_NEWLM, "libcuda.so.1", RTLD_NOW);
        return other ? (any_fn)dlsym(other, name) : NULL;
    }
    return NULL;
}

static any_fn find(char *name) {
    char *rest = strchr(name, '!');
    if (rest) {
        *rest = 0;
        return find_in(name, rest + 1);
    }
    const char *library = strncmp(name, "nvml", 4) == 0 ? "libnvidia-ml.so.1" : "libcuda.so.1";
    void *driver = dlopen(library, RTLD_NOW | RTLD_GLOBAL);
    any_fn found = driver ? (any_fn)dlsym(driver, name) : NULL;
    if (!found) {
        printf("cannot find %s: %s\n", name, dlerror());
        exit(9);
    }
    return found;
}

static struct argument parse(char *text) {
    struct argument argument = {0};
    if (text[1] != ':') {
        argument.value = strtoull(text, NULL, 0);
        return argument;
    }
    if (text[0] == 't') {
        argument.value = (uintptr_t)(text + 2);
        return argument;
    }
    argument.count = text[0] == 'z' ? strtoul(text + 2, NULL, 0) : strlen(text + 2) / 2;
    argument.bytes = calloc(1, argument.count + 1);
    for (size_t i = 0; text[0] != 'z' && i < argument.count; i++) sscanf(text + 2 + 2 * i, "%2hhx", argument.bytes + i);
    argument.value = (uintptr_t)argument.bytes;
    if (text[0] == 'p') {
        /* Freed with it; not answered. */
        argument.bytes = realloc(argument.bytes, argument.count + 1 + sizeof(void *));
        memmove(argument.bytes + sizeof(void *), argument.bytes, argument.count);
        *(void **)argument.bytes = argument.bytes + sizeof(void *);
        argument.value = (uintptr_t)argument.bytes;
        argument.count = 0;
    }
    return argument;
}

static int call(any_fn function, const struct argument *a) {
    return function(a[0].value, a[1].value, a[2].value, a[3].value, a[4].value, a[5].value, a[6].value, a[7].value,
                    a[8].value, a[9].value, a[10].value, a[11].value, a[12].value, a[13].value);
}

/* What a thread of `threads` does, and how that went. */
struct errand {
    any_fn function;
    const struct argument *arguments;
    uint64_t context, limit, done;
    int status;
};

static void *run_errand(void *of) {
    struct errand *errand = of;
    char name[] = "cuCtxSetCurrent";
    struct argument context[ARGUMENTS] = {{.value = errand->context}};
    errand->status = call(find(name), context);
    while (errand->status == 0 && errand->done < errand->limit) {
        errand->status = call(errand->function, errand->arguments);
        errand->done += errand->status == 0;
    }
    return NULL;
}

static void call_in_threads(int count, char *times, char *name, char *rest) {
    enum { THREADS = 64 };
    struct argument arguments[ARGUMENTS] = {0}, current[ARGUMENTS] = {0};
    struct errand errands[THREADS] = {0};
    pthread_t threads[THREADS];
    uint64_t context = 0, done = 0;
    int used = 0, status = 0;
    char ask[] = "cuCtxGetCurrent";
    current[0].value = (uintptr_t)&context;
    call(find(ask), current);
    for (char *word = strtok(rest, " "); word && used < ARGUMENTS; word = strtok(NULL, " ")) arguments[used++] = parse(word);
    any_fn function = find(name);
    if (count > THREADS) count = THREADS;
    for (int i = 0; i < count; i++) {
        errands[i] = (struct errand){function, arguments, context, strtoull(times, NULL, 0), 0, 0};
        pthread_create(&threads[i], NULL, run_errand, &errands[i]);
    }
    for (int i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
        done += errands[i].done;
        if (errands[i].status) status = errands[i].status;
    }
    answer_bytes(status, &done, sizeof done);
    for (int i = 0; i < used; i++) free(arguments[i].bytes);
}

/* A call in a host function, where no call is allowed. */
static struct {
    any_fn function;
    struct argument arguments[ARGUMENTS];
    int status;
    atomic_int is_done;
} hosted;

static void run_hosted(void *none) {
    (void)none;
    hosted.status = call(hosted.function, hosted.arguments);
    hosted.is_done = 1;
}

static void call_in_host_function(char *stream, char *name, char *rest) {
    char put[] = "cuLaunchHostFunc";
    struct argument arguments[ARGUMENTS] = {parse(stream), {.value = (uintptr_t)run_hosted}};
    int used = 0;
    memset(&hosted, 0, sizeof hosted);
    for (char *word = strtok(rest, " "); word && used < ARGUMENTS; word = strtok(NULL, " ")) hosted.arguments[used++] = parse(word);
    hosted.function = find(name);
    int status = call(find(put), arguments);
    while (status == 0 && !hosted.is_done) usleep(100);
    answer(status ? status : hosted.status);
    for (int i = 0; i < used; i++) free(hosted.arguments[i].bytes);
}

static void call_and_answer(char *name, char *rest, const char *times) {
    struct argument arguments[ARGUMENTS] = {0};
    int count = 0;
    for (char *word = strtok(rest, " "); word && count < ARGUMENTS; word = strtok(NULL, " ")) arguments[count++] = parse(word);
    any_fn function = find(name);
    int status = 0;
    if (!function) {
        answer(NOT_FOUND);
    } else if (times) {
        uint64_t done = 0, limit = strtoull(times, NULL, 0);
        while (done < limit && (status = call(function, arguments)) == 0) done++;
        answer_bytes(status, &done, sizeof done);
    } else {
        printf("%d", call(function, arguments));
        for (int i = 0; i < count; i++) {
            if (!arguments[i].bytes) continue;
            printf(" ");
            for (size_t b = 0; b < arguments[i].count; b++) printf("%02x", arguments[i].bytes[b]);
        }
        printf("\n");
        fflush(stdout);
    }
    for (int i = 0; i < count; i++) free(arguments[i].bytes);
}

static void wait_until(uint64_t ns) {
    struct timespec time = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) != 0) {}
}

/* Memory of the kinds that NVML shows for a process, in random pieces, at most 32 of them. */
static int churn(unsigned seed) {
    enum { PIECES = 32, OUT_OF_MEMORY = 2 };
    uint64_t held[PIECES] = {0}, kinds[PIECES] = {0};
    const char *const take[] = {"cuMemAlloc_v2", "cuMemAllocAsync", "cuMemCreate"};
    const char *const give[] = {"cuMemFree_v2", "cuMemFreeAsync", "cuMemRelease"};
    unsigned char properties[32] = {[0] = 1, [8] = 1};
    struct pollfd input = {.fd = 0, .events = POLLIN};
    char name[64];
    while (poll(&input, 1, 0) == 0) {
        unsigned piece = rand_r(&seed) % PIECES, kind = rand_r(&seed) % 3;
        uint64_t size = (uint64_t)(1 + rand_r(&seed) % 24) << (kind == 2 ? 21 : 18 + rand_r(&seed) % 5);
        struct argument a[ARGUMENTS] = {{.value = (uintptr_t)&held[piece]}, {.value = size}};
        int status;
        if (kind == 2) a[2].value = (uintptr_t)properties;
        if (held[piece]) {
            a[0].value = held[piece], a[1].value = 0;
            status = call(find(strcpy(name, give[kinds[piece]])), a);
            held[piece] = 0;
        } else {
            status = call(find(strcpy(name, take[kind])), a);
            kinds[piece] = kind;
            if (status) held[piece] = 0;
        }
        if (status != 0 && status != OUT_OF_MEMORY) return status;
    }
    return 0;
}

/* An allocation whose address the driver cannot write before it may land. */
static struct {
    pthread_t thread;
    struct argument arguments[ARGUMENTS];
    struct errand errand;
    volatile sig_atomic_t is_up, may_land;
} flight;

static void hold(int signal) {
    (void)signal;
    flight.is_up = 1;
    while (!flight.may_land) usleep(1000);
    mprotect((void *)(uintptr_t)flight.arguments[0].value, 4096, PROT_READ | PROT_WRITE);
}

static void fly(const char *bytes) {
    char ask[] = "cuCtxGetCurrent", name[] = "cuMemAlloc_v2";
    uint64_t context = 0;
    struct argument current[ARGUMENTS] = {{.value = (uintptr_t)&context}};
    call(find(ask), current);
    void *page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    flight.arguments[0].value = (uintptr_t)page;
    flight.arguments[1].value = strtoull(bytes, NULL, 0);
    flight.errand = (struct errand){find(name), flight.arguments, context, 1, 0, 0};
    signal(SIGSEGV, hold);
    pthread_create(&flight.thread, NULL, run_errand, &flight.errand);
    while (!flight.is_up) usleep(1000);
    answer(0);
}

static void land(void) {
    flight.may_land = 1;
    pthread_join(flight.thread, NULL);
    answer_bytes(flight.errand.status, (void *)(uintptr_t)flight.arguments[0].value, sizeof(uint64_t));
}

/* In the child: returns. In the parent: waits for the child and answers with its status. */
static void fork_and_wait(void) {
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        answer(0);
        return;
    }
    waitpid(child, &status, 0);
    answer(status);
}

static void spawn_and_wait(const char *how, char **arguments) {
    int status = -1;
    pid_t child = -1;
    if (strcmp(how, "vfork") == 0) {
        child = vfork();
        if (child == 0) {
            execv("/proc/self/exe", arguments);
            _exit(9);
        }
    } else {
        posix_spawn(&child, "/proc/self/exe", NULL, NULL, arguments, environ);
    }
    waitpid(child, &status, 0);
    answer(status);
}

static void open_as(int number) {
    int fd = open("/dev/null", O_RDWR);
    if (fd != number) {
        dup2(fd, number);
        close(fd);
    }
}

/* Another process's descriptor, as pidfd_getfd gives it. */
static void take_descriptor(char *rest) {
    char *end = rest;
    pid_t pid = strtol(rest, &end, 10);
    int process = syscall(SYS_pidfd_open, pid, 0);
    uint64_t taken = process < 0 ? -1 : syscall(SYS_pidfd_getfd, process, atoi(end), 0);
    if (process >= 0) close(process);
    answer_bytes(taken >> 31 ? -1 : 0, &taken, sizeof taken);
}

int main(int count, char **arguments) {
    static char line[LINE];
    (void)count;
    while (read_line(line)) {
        char *word = strtok(line, " "), *rest = strtok(NULL, "");
        if (!word || strcmp(word, "end") == 0) break;
        if (strcmp(word, "call") == 0 || strcmp(word, "repeat") == 0) {
            char *first = strtok(rest, " "), *second = NULL;
            if (word[0] == 'r') second = strtok(NULL, " ");
            rest = strtok(NULL, "");
            call_and_answer(second ? second : first, rest, second ? first : NULL);
            continue;
        }
        if (strcmp(word, "threads") == 0) {
            char *threads = strtok(rest, " "), *times = strtok(NULL, " "), *name = strtok(NULL, " ");
            call_in_threads(atoi(threads), times, name, strtok(NULL, ""));
            continue;
        }
        if (strcmp(word, "host") == 0) {
            char *stream = strtok(rest, " "), *name = strtok(NULL, " ");
            call_in_host_function(stream, name, strtok(NULL, ""));
            continue;
        }
        if (strcmp(word, "exec") == 0) {
            execv("/proc/self/exe", arguments);
            return 9;
        }
        if (strcmp(word, "churn") == 0) {
            answer(churn(strtoul(rest, NULL, 0)));
            continue;
        }
        if (strcmp(word, "fly") == 0) {
            fly(rest);
            continue;
        }
        if (strcmp(word, "land") == 0) {
            land();
            continue;
        }
        if (strcmp(word, "spawn") == 0) {
            spawn_and_wait(rest, arguments);
            continue;
        }
        if (strcmp(word, "fork") == 0) {
            fork_and_wait();
            continue;
        }
        if (strcmp(word, "takefd") == 0) {
            take_descriptor(rest);
            continue;
        }
        if (strcmp(word, "at") == 0) wait_until(strtoull(rest, NULL, 0));
        if (strcmp(word, "closefrom") == 0) syscall(SYS_close_range, atoi(rest), ~0U, 0);
        if (strcmp(word, "openas") == 0) open_as(atoi(rest));
        if (strcmp(word, "setenv") == 0) {
            char *name = strtok(rest, " ");
            setenv(name, strtok(NULL, " "), 1);
        }
        if (strcmp(word, "unsetenv") == 0) unsetenv(rest);
        if (strcmp(word, "putenv") == 0) putenv(strdup(rest));
        if (strcmp(word, "clearenv") == 0) clearenv();
        uint64_t pid = getpid();
        answer_bytes(0, &pid, sizeof pid);
    }
    return 0;
}
