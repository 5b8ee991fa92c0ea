/* Ends while the GPU is busy, and says whether any of its threads has ended before it: an exit handler that runs before the
 * driver's own counts them. */
#include "guest.h"
#include <dirent.h>

typedef int (*any_fn)();

static const char *const spin =
    ".version 7.0\n.target sm_70\n.address_size 64\n// cuota-sim: cost_ns=20000000 sms=132\n.visible .entry spin()\n{\n"
    " .reg .b64 %rd<4>;\n .reg .pred %p<2>;\n mov.u64 %rd1, %globaltimer;\n add.u64 %rd2, %rd1, 20000000;\nLOOP:\n"
    " mov.u64 %rd3, %globaltimer;\n setp.lt.u64 %p1, %rd3, %rd2;\n @%p1 bra LOOP;\n ret;\n}\n";

static int before;

static int threads(void) {
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    while (tasks && readdir(tasks)) count++;
    closedir(tasks);
    return count;
}

static void at_exit(void) {
    usleep(100000);
    printf("threads that ended: %d\n", before - threads());
    fflush(stdout);
}

static any_fn find(const char *name) {
    any_fn found = (any_fn)dlsym(dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL), name);
    if (!found) exit(9);
    return found;
}

static void must(int status) {
    if (status) printf("status %d\n", status);
}

int main(void) {
    void *context, *module, *function;
    any_fn launch;
    must(find("cuInit")(0));
    must(find("cuDevicePrimaryCtxRetain")(&context, 0));
    must(find("cuCtxSetCurrent")(context));
    must(find("cuModuleLoadData")(&module, spin));
    must(find("cuModuleGetFunction")(&function, module, "spin"));
    atexit(at_exit);
    launch = find("cuLaunchKernel");
    for (int i = 0; i < 3; i++) must(launch(function, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    usleep(5000);
    before = threads();
    return 0;
}
