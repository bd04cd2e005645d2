/* So much of CUDA's runtime and of cuBLAS, on the host's memory, that onnxruntime can open a session: it asks its CUDA
   kernels which nodes they take, which is what the tests look at. Nothing can be computed, but copies are made, and
   those of a stream that is being captured are kept and made at each launch of its graph. To be preloaded. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long size;

static int made(void **handle, size bytes) { *handle = calloc(1, bytes ? bytes : 1); return 0; }

typedef struct copy { void *to; const void *from; size bytes; struct copy *next; } copy;
typedef struct { copy *first, **last; } graph;

static void *capturing;
static graph *captured;
/* How often: copies to the device, from it and within it; graphs captured, and launched. For the tests to read. */
int pretended_copies[5], pretended_captures, pretended_launches;

int cudaMemcpyAsync(void *to, const void *from, size bytes, int kind, void *stream) {
  if (capturing && stream == capturing) {
    copy *made = malloc(sizeof *made);
    *made = (copy){to, from, bytes, 0};
    *captured->last = made;
    captured->last = &made->next;
    return 0;
  }
  pretended_copies[kind]++;
  memcpy(to, from, bytes);
  return 0;
}
/* While a stream is captured, CUDA takes no such copy and no allocation from any thread (cudaStreamCaptureModeGlobal). */
enum { unsupported = 900 };
int cudaMemcpy(void *to, const void *from, size bytes, int kind) {
  return capturing ? unsupported : cudaMemcpyAsync(to, from, bytes, kind, 0);
}
int cudaMalloc(void **pointer, size bytes) { return capturing ? unsupported : made(pointer, bytes); }
int cudaStreamBeginCapture(void *stream, int mode) {
  captured = calloc(1, sizeof *captured);
  captured->last = &captured->first;
  capturing = stream;
  usleep(10000); /* so that other threads do come between */
  return 0;
}
int cudaStreamEndCapture(void *stream, void **made) { *made = captured; capturing = 0; return 0; }
int cudaStreamIsCapturing(void *stream, int *status) { *status = capturing && stream == capturing; return 0; }
int cudaGraphInstantiate(void **made, void *of, size flags) { *made = of; pretended_captures++; return 0; }
int cudaGraphDestroy(void *of) { return 0; }
int cudaGraphExecDestroy(void *of) { return 0; }
int cudaGraphLaunch(graph *of, void *stream) {
  for (copy *made = of->first; made; made = made->next) memcpy(made->to, made->from, made->bytes);
  pretended_launches++;
  return 0;
}

static _Thread_local int current;

int cudaSetDevice(int device) { current = device; return 0; }
int cudaGetDevice(int *device) { *device = current; return 0; }
int cudaGetDeviceCount(int *count) { *count = atoi(getenv("DRIVER_DEVICES")); return 0; }
int cudaGetDeviceProperties(void *properties, int device) { memset(properties, 0, 768); return 0; }
int cudaGetDeviceProperties_v2(void *properties, int device) { memset(properties, 0, 768); return 0; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) { *value = 1; return 0; }
int cudaDeviceSynchronize(void) { return 0; }
int cudaDriverGetVersion(int *version) { *version = 99000; return 0; }
int cudaGetLastError(void) { return 0; }
int cudaMemGetInfo(size *available, size *total) { *available = *total = 1ul << 34; return 0; }
int cudaFree(void *pointer) { free(pointer); return 0; }
int cudaHostAlloc(void **pointer, size bytes, unsigned flags) { return made(pointer, bytes); }
int cudaMallocHost(void **pointer, size bytes) { return made(pointer, bytes); }
int cudaFreeHost(void *pointer) { free(pointer); return 0; }
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
