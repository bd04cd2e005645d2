/* What onnxruntime reads from cuDNN while it makes its recurrent kernels; every other function of the real library, with
   nothing in it, is put below by the test. */
#include <stdlib.h>

typedef unsigned long size;

size cudnnGetVersion(void) { return 91000; }
size cudnnGetCudartVersion(void) { return 13000; }
const char *cudnnGetErrorString(int code) { return "pretended"; }
int cudnnDropoutGetStatesSize(void *handle, size *bytes) { *bytes = 1024; return 0; }
int cudnnGetRNNWeightSpaceSize(void *handle, void *rnn, size *bytes) { *bytes = 1 << 20; return 0; }
int cudnnGetRNNTempSpaceSizes(void *handle, void *rnn, int mode, void *x, size *work, size *reserve) {
  *work = *reserve = 1024;
  return 0;
}
int cudnnGetRNNWeightParams(void *handle, void *rnn, int layer, size bytes, void *weights, int number, void *matrix,
                            void **matrix_at, void *bias, void **bias_at) {
  *matrix_at = *bias_at = weights;
  return 0;
}
int cudnnGetTensorNdDescriptor(void *tensor, int count, int *type, int *rank, int *lengths, int *strides) {
  *type = 0;
  *rank = 3;
  for (int axis = 0; axis < count; axis++) lengths[axis] = strides[axis] = 1;
  return 0;
}
