/* NVIDIA's driver, libcuda.so.1, that finds what the environment says: DRIVER_CUDA (version), DRIVER_INIT (result of
   cuInit), DRIVER_DEVICES (number of GPUs). */
#include <stdlib.h>
#include <string.h>

static int told(const char *name) {
  const char *value = getenv(name);
  return value ? atoi(value) : 0;
}
int cuDriverGetVersion(int *version) { *version = told("DRIVER_CUDA"); return 0; }
int cuInit(unsigned flags) { return told("DRIVER_INIT"); }
int cuDeviceGetCount(int *count) { *count = told("DRIVER_DEVICES"); return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "pretended", size); return 0; }
int cuTensorMapEncodeTiled(void) { return 0; }
