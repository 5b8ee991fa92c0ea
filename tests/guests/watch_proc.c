/* Watches the look-ups through cuGetProcAddress, from in front of us: whoever finds it, by dlsym or through itself, gets a
 * function that asks the one that was found, and writes each answer to the file that WATCH names: name, object, symbol. */
#include "guest.h"

typedef void *(*dlsym_fn)(void *handle, const char *name);

static proc_fn old;
static proc_v2_fn new;

static int watch_old(const char *name, void **function, int version, uint64_t flags);
static int watch_new(const char *name, void **function, int version, uint64_t flags, int *found);

static void note(const char *name, int status, void **function) {
    Dl_info info = {0};
    FILE *file = fopen(getenv("WATCH"), "a");
    if (!file) return;
    int found = status == 0 && function && *function && dladdr(*function, &info);
    const char *symbol = found && info.dli_sname ? info.dli_sname : "none";
    fprintf(file, "%s\t%s\t%s\n", name, found ? home(*function) : "none", symbol);
    fclose(file);
    if (strcmp(symbol, "cuGetProcAddress") == 0) old = (proc_fn)*function, *function = (void *)watch_old;
    if (strcmp(symbol, "cuGetProcAddress_v2") == 0) new = (proc_v2_fn)*function, *function = (void *)watch_new;
}

static int watch_old(const char *name, void **function, int version, uint64_t flags) {
    int status = old(name, function, version, flags);
    note(name, status, function);
    return status;
}

static int watch_new(const char *name, void **function, int version, uint64_t flags, int *found) {
    int status = new(name, function, version, flags, found);
    note(name, status, function);
    return status;
}

void *dlsym(void *handle, const char *name) {
    static dlsym_fn next;
    if (!next) next = (dlsym_fn)dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5");
    void *found = next(handle, name);
    if (found && strcmp(name, "cuGetProcAddress") == 0) return old = (proc_fn)found, (void *)watch_old;
    if (found && strcmp(name, "cuGetProcAddress_v2") == 0) return new = (proc_v2_fn)found, (void *)watch_new;
    return found;
}
