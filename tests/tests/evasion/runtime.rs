//! The CUDA runtime's functions that take what a function of the driver takes: the same arguments in the same order, or fewer of
//! them at the end. Their status for what is refused is the driver's.

/// A function of the driver, and the runtime's.
const SAME: &[(&str, &str)] = &[
    ("cuCtxGetDevice", "cudaGetDevice"),
    ("cuCtxGetLimit", "cudaDeviceGetLimit"),
    ("cuCtxSetLimit", "cudaDeviceSetLimit"),
    ("cuCtxSynchronize", "cudaDeviceSynchronize"),
    ("cuDestroyExternalMemory", "cudaDestroyExternalMemory"),
    ("cuDeviceGetDefaultMemPool", "cudaDeviceGetDefaultMemPool"),
    ("cuDeviceGetMemPool", "cudaDeviceGetMemPool"),
    ("cuDeviceSetMemPool", "cudaDeviceSetMemPool"),
    ("cuExternalMemoryGetMappedBuffer", "cudaExternalMemoryGetMappedBuffer"),
    ("cuGraphAddMemAllocNode", "cudaGraphAddMemAllocNode"),
    ("cuGraphAddMemFreeNode", "cudaGraphAddMemFreeNode"),
    ("cuGraphCreate", "cudaGraphCreate"),
    ("cuGraphInstantiateWithFlags", "cudaGraphInstantiateWithFlags"),
    ("cuGraphInstantiateWithParams", "cudaGraphInstantiateWithParams"),
    ("cuGraphLaunch", "cudaGraphLaunch"),
    ("cuGraphUpload", "cudaGraphUpload"),
    ("cuImportExternalMemory", "cudaImportExternalMemory"),
    ("cuIpcOpenMemHandle_v2", "cudaIpcOpenMemHandle"),
    ("cuLibraryGetGlobal", "cudaLibraryGetGlobal"),
    ("cuLibraryLoadData", "cudaLibraryLoadData"),
    ("cuLibraryLoadFromFile", "cudaLibraryLoadFromFile"),
    ("cuMemAllocAsync", "cudaMallocAsync"),
    ("cuMemAllocFromPoolAsync", "cudaMallocFromPoolAsync"),
    ("cuMemAllocManaged", "cudaMallocManaged"),
    ("cuMemAllocPitch_v2", "cudaMallocPitch"),
    ("cuMemAlloc_v2", "cudaMalloc"),
    ("cuMemFreeAsync", "cudaFreeAsync"),
    ("cuMemFree_v2", "cudaFree"),
    ("cuMemPoolCreate", "cudaMemPoolCreate"),
    ("cuMemPoolDestroy", "cudaMemPoolDestroy"),
    ("cuMemPoolImportFromShareableHandle", "cudaMemPoolImportFromShareableHandle"),
    ("cuMemPoolImportPointer", "cudaMemPoolImportPointer"),
    ("cuMemPoolTrimTo", "cudaMemPoolTrimTo"),
    ("cuMemsetD8_v2", "cudaMemset"),
    ("cuStreamBeginCapture_v2", "cudaStreamBeginCapture"),
    ("cuStreamCreate", "cudaStreamCreateWithFlags"),
    ("cuStreamCreateWithPriority", "cudaStreamCreateWithPriority"),
    ("cuStreamEndCapture", "cudaStreamEndCapture"),
];

/// The runtime's function for one of the driver's; the driver's own name, which the runtime does not have, where there is none.
pub(crate) fn function(symbol: &str) -> &str {
    SAME.iter().find(|(driver, _)| *driver == symbol).map_or(symbol, |(_, runtime)| runtime)
}
