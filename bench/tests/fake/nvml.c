/* The least NVML for the tests of cuota-bench: it shows what the processes of cuda.c wrote of themselves. */
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };

typedef struct {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
} process;

static int device;

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int e) { (void)e; return "an error of the fake NVML"; }
int nvmlSystemGetDriverVersion(char *s, unsigned n) { snprintf(s, n, "0.0-fake"); return SUCCESS; }

int nvmlDeviceGetHandleByUUID(const char *uuid, void **d) {
    *d = &device;
    return strcmp(uuid, "GPU-11111111-1111-1111-1111-111111111111") ? NOT_FOUND : SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *d, unsigned *count, process *list) {
    (void)d;
    const char *folder = getenv("FAKE_GPU_DIR");
    DIR *dir = folder ? opendir(folder) : NULL;
    unsigned found = 0, room = list ? *count : 0;
    if (!dir) return NOT_SUPPORTED;
    for (struct dirent *entry; (entry = readdir(dir));) {
        int pid = atoi(entry->d_name);
        if (pid <= 0 || kill(pid, 0)) continue;
        char path[512];
        snprintf(path, sizeof path, "%s/%d", folder, pid);
        FILE *file = fopen(path, "r");
        unsigned long long used = 0;
        if (!file) continue;
        int fields = fscanf(file, "%llu", &used);
        fclose(file);
        if (fields != 1) continue;
        if (found < room) list[found] = (process){(unsigned)pid, used, ~0u, ~0u};
        found++;
    }
    closedir(dir);
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}
