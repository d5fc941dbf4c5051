/* The symbols of libcudart and libcuda that _cuda.py calls, on host memory.
 * Signatures: CUDA Runtime API and Driver API reference. Every pointer is checked as CUDA would. */
#include <stdlib.h>
#include <string.h>

int stub_alive = 0;     /* allocations, streams, events and graphs not yet freed */
int stub_capturing = 0; /* between begin and end of a stream capture */
int stub_launches = 0;
int stub_refusal = 0; /* what instantiating a graph answers */
void (*stub_on_launch)(void) = 0;
static int stream_tag, graph_tag, exec_tag;

static int make(void **out, size_t size) {
    if (!(*out = malloc(size ? size : 1))) return 2;
    stub_alive++;
    return 0;
}
static int drop(void *p) {
    if (!p) return 1;
    free(p);
    stub_alive--;
    return 0;
}
int cudaSetDevice(int device) { return device == 0 ? 0 : 101; }
const char *cudaGetErrorString(int code) { return code == 2 ? "out of memory" : "invalid argument"; }
int cudaMalloc(void **out, size_t size) { return size > ((size_t)1 << 32) ? 2 : make(out, size); }
int cudaFree(void *p) { return drop(p); }
int cudaMallocHost(void **out, size_t size) { return make(out, size); }
int cudaFreeHost(void *p) { return drop(p); }
int cudaStreamCreate(void **out) { return make(out, sizeof stream_tag); }
int cudaStreamDestroy(void *p) { return drop(p); }
int cudaStreamSynchronize(void *stream) { return stream ? 0 : 1; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
    if (!to || !from || !stream || (kind != 1 && kind != 2)) return 1;
    memcpy(to, from, size);
    return 0;
}
static float now = 0;
int cudaEventCreate(void **out) { return make(out, sizeof(float)); }
int cudaEventDestroy(void *p) { return drop(p); }
int cudaEventRecord(void *event, void *stream) {
    if (!event || !stream) return 1;
    *(float *)event = (now += 1.5f);
    return 0;
}
int cudaEventElapsedTime(float *out, void *start, void *end) {
    *out = *(float *)end - *(float *)start;
    return 0;
}
int cuInit(unsigned flags) { return flags; }
int cuDriverGetVersion(int *out) { *out = 12060; return 0; }
int cuDeviceGet(int *out, int ordinal) { *out = ordinal; return 0; }
int cuDeviceGetName(char *out, int size, int device) {
    (void)device;
    strncpy(out, "Orin", (size_t)size);
    return 0;
}
int cuDeviceGetAttribute(int *out, int attribute, int device) {
    (void)device;
    *out = attribute == 75 ? 8 : attribute == 76 ? 7 : -1;
    return 0;
}
int cuStreamBeginCapture_v2(void *stream, int mode) {
    if (!stream || mode != 1) return 1;
    stub_capturing = 1;
    return 0;
}
int cuStreamEndCapture(void *stream, void **graph) {
    stub_capturing = 0;
    *graph = &graph_tag;
    stub_alive++;
    return stream ? 0 : 1;
}
#ifdef OLD_DRIVER /* before CUDA 11.4 */
int cuGraphInstantiate(void **out, void *graph, void *node, char *log, size_t size) {
    if (graph != &graph_tag || node || log || size) return 1;
#else
int cuGraphInstantiateWithFlags(void **out, void *graph, unsigned long long flags) {
    if (graph != &graph_tag || flags) return 1;
#endif
    if (stub_refusal) return stub_refusal;
    *out = &exec_tag;
    stub_alive++;
    return 0;
}
int cuGraphLaunch(void *exec, void *stream) {
    if (exec != &exec_tag || !stream) return 1;
    stub_launches++;
    if (stub_on_launch) stub_on_launch();
    return 0;
}
int cuGraphExecDestroy(void *exec) {
    stub_alive--;
    return exec == &exec_tag ? 0 : 1;
}
int cuGraphDestroy(void *graph) {
    stub_alive--;
    return graph == &graph_tag ? 0 : 1;
}
