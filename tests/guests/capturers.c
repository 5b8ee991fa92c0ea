/* Captures in several threads at once while others launch, and says how many calls failed. The argument is the captures' mode. */
#include "guest.h"
#include <pthread.h>
#include <stdatomic.h>

enum { CAPTURING = 3, LAUNCHING = 3, CAPTURES = 60, UNITS = 5, LAUNCHES = 300, NON_BLOCKING = 1 };

typedef int (*any_fn)();

static const char *const spin =
    ".version 7.0\n.target sm_70\n.address_size 64\n// cuota-sim: cost_ns=50000 sms=132\n.visible .entry spin()\n{\n"
    " .reg .b64 %rd<4>;\n .reg .pred %p<2>;\n mov.u64 %rd1, %globaltimer;\n add.u64 %rd2, %rd1, 50000;\nLOOP:\n"
    " mov.u64 %rd3, %globaltimer;\n setp.lt.u64 %p1, %rd3, %rd2;\n @%p1 bra LOOP;\n ret;\n}\n";

static any_fn launch, make_current, make_stream, begin, end, destroy;
static void *context, *function;
static uint64_t mode;
static atomic_int failures, last;

static any_fn find(const char *name) {
    any_fn found = (any_fn)dlsym(dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL), name);
    if (!found) exit(9);
    return found;
}

static void must(int status) {
    if (!status) return;
    failures++;
    last = status;
}

static void launch_on(void *stream, int count) {
    /* Blocks that fill a card, so that kernels of several streams come one after the other there, too. */
    for (int i = 0; i < count; i++) must(launch(function, 264, 1, 1, 1024, 1, 1, 0, stream, NULL, NULL));
}

static void *capture(void *stream) {
    void *graph;
    must(make_current(context));
    for (int i = 0; i < CAPTURES; i++) {
        must(begin(stream, mode));
        launch_on(stream, UNITS);
        must(end(stream, &graph));
        must(destroy(graph));
        launch_on(stream, 1);
    }
    return NULL;
}

static void *work(void *stream) {
    must(make_current(context));
    launch_on(stream, LAUNCHES);
    return NULL;
}

int main(int count, char **arguments) {
    enum { THREADS = CAPTURING + LAUNCHING };
    pthread_t threads[THREADS];
    void *module, *streams[THREADS];
    mode = count > 1 ? strtoul(arguments[1], NULL, 0) : 0;
    must(find("cuInit")(0));
    must(find("cuDevicePrimaryCtxRetain")(&context, 0));
    make_current = find("cuCtxSetCurrent");
    must(make_current(context));
    must(find("cuModuleLoadData")(&module, spin));
    must(find("cuModuleGetFunction")(&function, module, "spin"));
    launch = find("cuLaunchKernel"), make_stream = find("cuStreamCreate"), begin = find("cuStreamBeginCapture_v2");
    end = find("cuStreamEndCapture"), destroy = find("cuGraphDestroy");
    /* The first launch loads the kernel: not in a capture. */
    launch_on(NULL, 3);
    must(find("cuCtxSynchronize")());
    for (int i = 0; i < THREADS; i++) must(make_stream(&streams[i], NON_BLOCKING));
    streams[CAPTURING] = NULL; /* the legacy stream */
    for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, i < CAPTURING ? capture : work, streams[i]);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    must(find("cuCtxSynchronize")());
    printf("failures: %d, the last with %d\n", failures, last);
    return 0;
}
