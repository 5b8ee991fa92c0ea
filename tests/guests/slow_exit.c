/* Leaves a batch open whose kernels have ended, as it has seen without telling anybody, and returns: an exit handler then takes a
 * second. */
#include "guest.h"

typedef int (*any_fn)();

static const char *const spin =
    ".version 7.0\n.target sm_70\n.address_size 64\n// cuota-sim: cost_ns=1000000 sms=132\n.visible .entry spin()\n{\n"
    " .reg .b64 %rd<4>;\n .reg .pred %p<2>;\n mov.u64 %rd1, %globaltimer;\n add.u64 %rd2, %rd1, 1000000;\nLOOP:\n"
    " mov.u64 %rd3, %globaltimer;\n setp.lt.u64 %p1, %rd3, %rd2;\n @%p1 bra LOOP;\n ret;\n}\n";

static void at_exit(void) {
    usleep(1000000);
}

static any_fn find(const char *name) {
    any_fn found = (any_fn)dlsym(dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL), name);
    if (!found) exit(9);
    return found;
}

static void must(int status) {
    if (status) exit(8);
}

int main(void) {
    void *context, *module, *function, *stream;
    any_fn launch, query;
    /* Before the driver's own, so that it runs after them. */
    atexit(at_exit);
    must(find("cuInit")(0));
    must(find("cuDevicePrimaryCtxRetain")(&context, 0));
    must(find("cuCtxSetCurrent")(context));
    must(find("cuModuleLoadData")(&module, spin));
    must(find("cuModuleGetFunction")(&function, module, "spin"));
    must(find("cuStreamCreate")(&stream, 1));
    launch = find("cuLaunchKernel"), query = find("cuStreamQuery");
    must(launch(function, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
    must(find("cuStreamSynchronize")(stream));
    for (int i = 0; i < 10; i++) must(launch(function, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
    while (query(stream)) usleep(20);
    return 0;
}
