/* Makes the CUDA runtime bind itself to the driver. */
#include "guest.h"

int main(int count, char **arguments) {
    void *runtime = count > 1 ? dlopen(arguments[1], RTLD_NOW) : NULL;
    if (!runtime) return printf("%s\n", dlerror()), 1;
    int devices = -1;
    int status = ((int (*)(int *))dlsym(runtime, "cudaGetDeviceCount"))(&devices);
    printf("cudaGetDeviceCount %d\n", status);
    return 0;
}
