/* So much of CUDA's runtime and of cuBLAS, on the host's memory, that onnxruntime can open a session: it asks its CUDA
   kernels which nodes they take, which is what the tests look at. Nothing can be computed. To be preloaded. */
#include <stdlib.h>
#include <string.h>

typedef unsigned long size;

static int made(void **handle, size bytes) { *handle = calloc(1, bytes ? bytes : 1); return 0; }

int cudaSetDevice(int device) { return 0; }
int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaGetDeviceProperties(void *properties, int device) { memset(properties, 0, 1024); return 0; }
int cudaGetDeviceProperties_v2(void *properties, int device) { memset(properties, 0, 1024); return 0; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) { *value = 1; return 0; }
int cudaDeviceSynchronize(void) { return 0; }
int cudaDriverGetVersion(int *version) { *version = 99000; return 0; }
int cudaGetLastError(void) { return 0; }
int cudaMemGetInfo(size *available, size *total) { *available = *total = 1ul << 34; return 0; }
int cudaMalloc(void **pointer, size bytes) { return made(pointer, bytes); }
int cudaFree(void *pointer) { free(pointer); return 0; }
int cudaHostAlloc(void **pointer, size bytes, unsigned flags) { return made(pointer, bytes); }
int cudaMallocHost(void **pointer, size bytes) { return made(pointer, bytes); }
int cudaFreeHost(void *pointer) { free(pointer); return 0; }
int cudaMemcpy(void *to, const void *from, size bytes, int kind) { memcpy(to, from, bytes); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size bytes, int kind, void *stream) { memcpy(to, from, bytes); return 0; }
int cudaMemsetAsync(void *pointer, int value, size bytes, void *stream) { memset(pointer, value, bytes); return 0; }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { return made(stream, 8); }
int cudaStreamDestroy(void *stream) { return 0; }
int cudaStreamSynchronize(void *stream) { return 0; }
int cudaStreamWaitEvent(void *stream, void *event, unsigned flags) { return 0; }
int cudaEventCreateWithFlags(void **event, unsigned flags) { return made(event, 8); }
int cudaEventRecord(void *event, void *stream) { return 0; }
int cudaEventDestroy(void *event) { return 0; }
int cublasCreate_v2(void **handle) { return made(handle, 64); }
int cublasDestroy_v2(void *handle) { return 0; }
int cublasSetStream_v2(void *handle, void *stream) { return 0; }
int cublasSetMathMode(void *handle, int mode) { return 0; }
int cublasLtCreate(void **handle) { return made(handle, 64); }
int cublasLtDestroy(void *handle) { return 0; }
