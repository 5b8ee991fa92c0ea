//! Every hook, one line each. The lines are the rows of class `hook` in the coverage ledgers of `cuota-abi`; a
//! test compares them. See [`hooks!`] for the form of a line.

use core::ffi::{c_char, c_int, c_uchar, c_uint, c_ulonglong, c_ushort, c_void};

use cuota_abi::cuda::*;
use cuota_abi::nvml::*;

use crate::hooks::{
    array, capture, context, copy, flow, graph, info, launch, module, plain, pool, processes, sharing,
    stream, vmm,
};
use crate::interpose::proc_address;
use crate::interpose::table::{calls, hooks};

hooks! {
    Cuda -> CUresult {
        // The driver's own look-up.
        cuGetProcAddress: PFN_cuGetProcAddress_v11030
            fn(symbol: *const c_char, pfn: *mut *mut c_void, driverVersion: c_int, flags: cuuint64_t) => proc_address::get_proc_address;
        cuGetProcAddress_v2: PFN_cuGetProcAddress_v12000
            fn(symbol: *const c_char, pfn: *mut *mut c_void, driverVersion: c_int, flags: cuuint64_t, symbolFound: *mut CUdriverProcAddressQueryResult) => proc_address::get_proc_address;

        // Plain memory.
        cuMemAlloc: PFN_cuMemAlloc_v2000
            fn(dptr: *mut CUdeviceptr_v1, bytesize: c_uint) => plain::alloc_v1;
        cuMemAlloc_v2: PFN_cuMemAlloc_v3020
            fn(dptr: *mut CUdeviceptr, bytesize: usize) => plain::alloc;
        cuMemAllocPitch: PFN_cuMemAllocPitch_v2000
            fn(dptr: *mut CUdeviceptr_v1, pPitch: *mut c_uint, WidthInBytes: c_uint, Height: c_uint, ElementSizeBytes: c_uint) => plain::alloc_pitch_v1;
        cuMemAllocPitch_v2: PFN_cuMemAllocPitch_v3020
            fn(dptr: *mut CUdeviceptr, pPitch: *mut usize, WidthInBytes: usize, Height: usize, ElementSizeBytes: c_uint) => plain::alloc_pitch;
        cuMemAllocManaged: PFN_cuMemAllocManaged_v6000
            fn(dptr: *mut CUdeviceptr, bytesize: usize, flags: c_uint) => plain::alloc_managed;
        cuMemFree: PFN_cuMemFree_v2000
            fn(dptr: CUdeviceptr_v1) => plain::free_v1;
        cuMemFree_v2: PFN_cuMemFree_v3020
            fn(dptr: CUdeviceptr) => plain::free;

        // Stream-ordered memory and pools.
        cuMemAllocAsync: PFN_cuMemAllocAsync_v11020, cuMemAllocAsync_ptsz: PFN_cuMemAllocAsync_v11020_ptsz
            fn(dptr: *mut CUdeviceptr, bytesize: usize, hStream: CUstream) => pool::alloc_async;
        cuMemAllocFromPoolAsync: PFN_cuMemAllocFromPoolAsync_v11020, cuMemAllocFromPoolAsync_ptsz: PFN_cuMemAllocFromPoolAsync_v11020_ptsz
            fn(dptr: *mut CUdeviceptr, bytesize: usize, pool: CUmemoryPool, hStream: CUstream) => pool::alloc_from_pool_async;
        cuMemFreeAsync: PFN_cuMemFreeAsync_v11020, cuMemFreeAsync_ptsz: PFN_cuMemFreeAsync_v11020_ptsz
            fn(dptr: CUdeviceptr, hStream: CUstream) => plain::free_async;
        cuMemPoolTrimTo: PFN_cuMemPoolTrimTo_v11020
            fn(pool: CUmemoryPool, minBytesToKeep: usize) => pool::trim;
        cuMemPoolCreate: PFN_cuMemPoolCreate_v11020
            fn(pool: *mut CUmemoryPool, poolProps: *const CUmemPoolProps) => pool::create;
        cuMemPoolDestroy: PFN_cuMemPoolDestroy_v11020
            fn(pool: CUmemoryPool) => pool::destroy;
        cuDeviceGetDefaultMemPool: PFN_cuDeviceGetDefaultMemPool_v11020
            fn(pool_out: *mut CUmemoryPool, dev: CUdevice) => pool::learn;
        cuDeviceGetMemPool: PFN_cuDeviceGetMemPool_v11020
            fn(pool: *mut CUmemoryPool, dev: CUdevice) => pool::learn;

        cuMemGetDefaultMemPool: PFN_cuMemGetDefaultMemPool_v13000
            fn(pool: *mut CUmemoryPool, location: *mut CUmemLocation, kind: CUmemAllocationType) => pool::learn_at;
        cuMemGetMemPool: PFN_cuMemGetMemPool_v13000
            fn(pool: *mut CUmemoryPool, location: *mut CUmemLocation, kind: CUmemAllocationType) => pool::learn_at;

        // VMM handles and mappings.
        cuMemCreate: PFN_cuMemCreate_v10020
            fn(handle: *mut CUmemGenericAllocationHandle, size: usize, prop: *const CUmemAllocationProp, flags: c_ulonglong) => vmm::create;
        cuMemRelease: PFN_cuMemRelease_v10020
            fn(handle: CUmemGenericAllocationHandle) => vmm::release;
        cuMemMap: PFN_cuMemMap_v10020
            fn(ptr: CUdeviceptr, size: usize, offset: usize, handle: CUmemGenericAllocationHandle, flags: c_ulonglong) => vmm::map;
        cuMemUnmap: PFN_cuMemUnmap_v10020
            fn(ptr: CUdeviceptr, size: usize) => vmm::unmap;
        cuMemRetainAllocationHandle: PFN_cuMemRetainAllocationHandle_v11000
            fn(handle: *mut CUmemGenericAllocationHandle, addr: *mut c_void) => vmm::retain;

        // Memory that crosses the borders of a process.
        cuIpcGetMemHandle: PFN_cuIpcGetMemHandle_v4010
            fn(pHandle: *mut CUipcMemHandle, dptr: CUdeviceptr) => sharing::ipc_get;
        cuIpcOpenMemHandle: PFN_cuIpcOpenMemHandle_v4010, cuIpcOpenMemHandle_v2: PFN_cuIpcOpenMemHandle_v11000
            fn(pdptr: *mut CUdeviceptr, handle: CUipcMemHandle, Flags: c_uint) => sharing::ipc_open;
        cuIpcCloseMemHandle: PFN_cuIpcCloseMemHandle_v4010
            fn(dptr: CUdeviceptr) => vmm::release;
        cuMemExportToShareableHandle: PFN_cuMemExportToShareableHandle_v10020
            fn(shareableHandle: *mut c_void, handle: CUmemGenericAllocationHandle, handleType: CUmemAllocationHandleType, flags: c_ulonglong) => sharing::export;
        cuMemImportFromShareableHandle: PFN_cuMemImportFromShareableHandle_v10020
            fn(handle: *mut CUmemGenericAllocationHandle, osHandle: *mut c_void, shHandleType: CUmemAllocationHandleType) => sharing::import;
        cuMemGetHandleForAddressRange: PFN_cuMemGetHandleForAddressRange_v11070
            fn(handle: *mut c_void, dptr: CUdeviceptr, size: usize, handleType: CUmemRangeHandleType, flags: c_ulonglong) => sharing::export_range;
        cuImportExternalMemory: PFN_cuImportExternalMemory_v10000
            fn(extMem_out: *mut CUexternalMemory, memHandleDesc: *const CUDA_EXTERNAL_MEMORY_HANDLE_DESC) => sharing::import_external;
        cuDestroyExternalMemory: PFN_cuDestroyExternalMemory_v10000
            fn(extMem: CUexternalMemory) => vmm::release [1];
        cuExternalMemoryGetMappedBuffer: PFN_cuExternalMemoryGetMappedBuffer_v10000
            fn(devPtr: *mut CUdeviceptr, extMem: CUexternalMemory, bufferDesc: *const CUDA_EXTERNAL_MEMORY_BUFFER_DESC) => sharing::map_external;
        cuExternalMemoryGetMappedMipmappedArray: PFN_cuExternalMemoryGetMappedMipmappedArray_v10000
            fn(mipmap: *mut CUmipmappedArray, extMem: CUexternalMemory, mipmapDesc: *const CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC) => sharing::map_external_array;
        cuMemPoolExportToShareableHandle: PFN_cuMemPoolExportToShareableHandle_v11020
            fn(handle_out: *mut c_void, pool: CUmemoryPool, handleType: CUmemAllocationHandleType, flags: c_ulonglong) => sharing::export_pool;
        cuMemPoolImportFromShareableHandle: PFN_cuMemPoolImportFromShareableHandle_v11020
            fn(pool_out: *mut CUmemoryPool, handle: *mut c_void, handleType: CUmemAllocationHandleType, flags: c_ulonglong) => sharing::import_pool;
        cuMemPoolExportPointer: PFN_cuMemPoolExportPointer_v11020
            fn(shareData_out: *mut CUmemPoolPtrExportData, ptr: CUdeviceptr) => sharing::export_pointer;
        cuMemPoolImportPointer: PFN_cuMemPoolImportPointer_v11020
            fn(ptr_out: *mut CUdeviceptr, pool: CUmemoryPool, shareData: *mut CUmemPoolPtrExportData) => sharing::import_pointer;
        cuMulticastCreate: PFN_cuMulticastCreate_v12010
            fn(mcHandle: *mut CUmemGenericAllocationHandle, prop: *const CUmulticastObjectProp) => sharing::create_multicast;
        cuMulticastBindMem: PFN_cuMulticastBindMem_v12010
            fn(mcHandle: CUmemGenericAllocationHandle, mcOffset: usize, memHandle: CUmemGenericAllocationHandle, memOffset: usize, size: usize, flags: c_ulonglong) => sharing::bind;
        cuMulticastBindMem_v2: PFN_cuMulticastBindMem_v13010
            fn(mcHandle: CUmemGenericAllocationHandle, dev: CUdevice, mcOffset: usize, memHandle: CUmemGenericAllocationHandle, memOffset: usize, size: usize, flags: c_ulonglong) => sharing::bind [sharing::FOR_DEVICE];
        cuMulticastBindAddr: PFN_cuMulticastBindAddr_v12010
            fn(mcHandle: CUmemGenericAllocationHandle, mcOffset: usize, memptr: CUdeviceptr, size: usize, flags: c_ulonglong) => sharing::bind [sharing::BY_ADDRESS];
        cuMulticastBindAddr_v2: PFN_cuMulticastBindAddr_v13010
            fn(mcHandle: CUmemGenericAllocationHandle, dev: CUdevice, mcOffset: usize, memptr: CUdeviceptr, size: usize, flags: c_ulonglong) => sharing::bind [sharing::BY_ADDRESS | sharing::FOR_DEVICE];
        cuMulticastUnbind: PFN_cuMulticastUnbind_v12010
            fn(mcHandle: CUmemGenericAllocationHandle, dev: CUdevice, mcOffset: usize, size: usize) => sharing::unbind;
        cuLogicalEndpointBindMem: PFN_cuLogicalEndpointBindMem_v13030
            fn(leId: CUlogicalEndpointId, dev: CUdevice, offset: cuuint64_t, memHandle: CUmemGenericAllocationHandle, memOffset: cuuint64_t, size: cuuint64_t, flags: c_ulonglong) => sharing::bind [sharing::FOR_DEVICE | sharing::FOR_GOOD];
        cuMemMapArrayAsync: PFN_cuMemMapArrayAsync_v11010, cuMemMapArrayAsync_ptsz: PFN_cuMemMapArrayAsync_v11010_ptsz
            fn(mapInfoList: *mut CUarrayMapInfo, count: c_uint, hStream: CUstream) => sharing::map_arrays;

        // Arrays.
        cuArrayCreate: PFN_cuArrayCreate_v2000
            fn(pHandle: *mut CUarray, pAllocateArray: *const CUDA_ARRAY_DESCRIPTOR_v1) => array::create_2d_v1;
        cuArrayCreate_v2: PFN_cuArrayCreate_v3020
            fn(pHandle: *mut CUarray, pAllocateArray: *const CUDA_ARRAY_DESCRIPTOR_v2) => array::create_2d;
        cuArray3DCreate: PFN_cuArray3DCreate_v2000
            fn(pHandle: *mut CUarray, pAllocateArray: *const CUDA_ARRAY3D_DESCRIPTOR_v1) => array::create_3d_v1;
        cuArray3DCreate_v2: PFN_cuArray3DCreate_v3020
            fn(pHandle: *mut CUarray, pAllocateArray: *const CUDA_ARRAY3D_DESCRIPTOR_v2) => array::create_3d;
        cuArrayDestroy: PFN_cuArrayDestroy_v2000
            fn(hArray: CUarray) => vmm::release;
        cuMipmappedArrayCreate: PFN_cuMipmappedArrayCreate_v5000
            fn(pHandle: *mut CUmipmappedArray, pMipmappedArrayDesc: *const CUDA_ARRAY3D_DESCRIPTOR_v2, numMipmapLevels: c_uint) => array::create_mipmapped;
        cuMipmappedArrayDestroy: PFN_cuMipmappedArrayDestroy_v5000
            fn(hMipmappedArray: CUmipmappedArray) => vmm::release;

        // Graphs that allocate.
        cuGraphInstantiate: PFN_cuGraphInstantiate_v10000, cuGraphInstantiate_v2: PFN_cuGraphInstantiate_v11000
            fn(phGraphExec: *mut CUgraphExec, hGraph: CUgraph, phErrorNode: *mut CUgraphNode, logBuffer: *mut c_char, bufferSize: usize) => graph::instantiate_v1;
        cuGraphInstantiateWithFlags: PFN_cuGraphInstantiateWithFlags_v11040
            fn(phGraphExec: *mut CUgraphExec, hGraph: CUgraph, flags: c_ulonglong) => graph::instantiate_with_flags;
        cuGraphInstantiateWithParams: PFN_cuGraphInstantiateWithParams_v12000, cuGraphInstantiateWithParams_ptsz: PFN_cuGraphInstantiateWithParams_v12000_ptsz
            fn(phGraphExec: *mut CUgraphExec, hGraph: CUgraph, instantiateParams: *mut CUDA_GRAPH_INSTANTIATE_PARAMS) => graph::instantiate_with_params;
        cuGraphLaunch: PFN_cuGraphLaunch_v10000, cuGraphLaunch_ptsz: PFN_cuGraphLaunch_v10000_ptsz
            fn(hGraphExec: CUgraphExec, hStream: CUstream) => graph::launch [1];
        cuGraphUpload: PFN_cuGraphUpload_v11010, cuGraphUpload_ptsz: PFN_cuGraphUpload_v11010_ptsz
            fn(hGraphExec: CUgraphExec, hStream: CUstream) => graph::launch;
        cuGraphExecDestroy: PFN_cuGraphExecDestroy_v10000
            fn(hGraphExec: CUgraphExec) => graph::destroy;
        cuDeviceGraphMemTrim: PFN_cuDeviceGraphMemTrim_v11040
            fn(device: CUdevice) => graph::trim;

        // Code and global variables.
        cuModuleLoad: PFN_cuModuleLoad_v2000
            fn(module: *mut CUmodule, fname: *const c_char) => module::load;
        cuModuleLoadData: PFN_cuModuleLoadData_v2000, cuModuleLoadFatBinary: PFN_cuModuleLoadFatBinary_v2000
            fn(module: *mut CUmodule, image: *const c_void) => module::load;
        cuModuleLoadDataEx: PFN_cuModuleLoadDataEx_v2010
            fn(module: *mut CUmodule, image: *const c_void, numOptions: c_uint, options: *mut CUjit_option, optionValues: *mut *mut c_void) => module::load;
        cuLibraryLoadData: PFN_cuLibraryLoadData_v12000
            fn(library: *mut CUlibrary, code: *const c_void, jitOptions: *mut CUjit_option, jitOptionsValues: *mut *mut c_void, numJitOptions: c_uint, libraryOptions: *mut CUlibraryOption, libraryOptionValues: *mut *mut c_void, numLibraryOptions: c_uint) => module::load_library;
        cuLibraryLoadFromFile: PFN_cuLibraryLoadFromFile_v12000
            fn(library: *mut CUlibrary, fileName: *const c_char, jitOptions: *mut CUjit_option, jitOptionsValues: *mut *mut c_void, numJitOptions: c_uint, libraryOptions: *mut CUlibraryOption, libraryOptionValues: *mut *mut c_void, numLibraryOptions: c_uint) => module::load_library;

        cuModuleGetFunction: PFN_cuModuleGetFunction_v2000
            fn(hfunc: *mut CUfunction, hmod: CUmodule, name: *const c_char) => module::function;
        cuModuleGetGlobal: PFN_cuModuleGetGlobal_v2000
            fn(dptr: *mut CUdeviceptr_v1, bytes: *mut c_uint, hmod: CUmodule, name: *const c_char) => module::use_module;
        cuModuleGetGlobal_v2: PFN_cuModuleGetGlobal_v3020
            fn(dptr: *mut CUdeviceptr, bytes: *mut usize, hmod: CUmodule, name: *const c_char) => module::use_module;
        cuLibraryGetGlobal: PFN_cuLibraryGetGlobal_v12000, cuLibraryGetManaged: PFN_cuLibraryGetManaged_v12000
            fn(dptr: *mut CUdeviceptr, bytes: *mut usize, library: CUlibrary, name: *const c_char) => module::use_library [2];
        cuLibraryGetKernel: PFN_cuLibraryGetKernel_v12000
            fn(pKernel: *mut CUkernel, library: CUlibrary, name: *const c_char) => module::kernel;
        cuLibraryGetModule: PFN_cuLibraryGetModule_v12000
            fn(pMod: *mut CUmodule, library: CUlibrary) => module::use_library [1];
        cuLibraryGetUnifiedFunction: PFN_cuLibraryGetUnifiedFunction_v12000
            fn(fptr: *mut *mut c_void, library: CUlibrary, symbol: *const c_char) => module::use_library [1];
        cuKernelGetFunction: PFN_cuKernelGetFunction_v12000
            fn(pFunc: *mut CUfunction, kernel: CUkernel) => module::kernel_function;
        cuFuncLoad: PFN_cuFuncLoad_v12040
            fn(function: CUfunction) => module::use_module;
        cuModuleUnload: PFN_cuModuleUnload_v2000
            fn(hmod: CUmodule) => module::unload;
        cuLibraryUnload: PFN_cuLibraryUnload_v12000
            fn(library: CUlibrary) => module::unload_whole_library;

        // Launches.
        cuLaunchKernel: PFN_cuLaunchKernel_v4000, cuLaunchKernel_ptsz: PFN_cuLaunchKernel_v7000_ptsz
            fn(f: CUfunction, gridDimX: c_uint, gridDimY: c_uint, gridDimZ: c_uint, blockDimX: c_uint, blockDimY: c_uint, blockDimZ: c_uint, sharedMemBytes: c_uint, hStream: CUstream, kernelParams: *mut *mut c_void, extra: *mut *mut c_void) => launch::kernel;
        cuLaunchKernelEx: PFN_cuLaunchKernelEx_v11060, cuLaunchKernelEx_ptsz: PFN_cuLaunchKernelEx_v11060_ptsz
            fn(config: *const CUlaunchConfig, f: CUfunction, kernelParams: *mut *mut c_void, extra: *mut *mut c_void) => launch::kernel_ex;
        cuLaunchCooperativeKernel: PFN_cuLaunchCooperativeKernel_v9000, cuLaunchCooperativeKernel_ptsz: PFN_cuLaunchCooperativeKernel_v9000_ptsz
            fn(f: CUfunction, gridDimX: c_uint, gridDimY: c_uint, gridDimZ: c_uint, blockDimX: c_uint, blockDimY: c_uint, blockDimZ: c_uint, sharedMemBytes: c_uint, hStream: CUstream, kernelParams: *mut *mut c_void) => launch::kernel;
        cuLaunchCooperativeKernelMultiDevice: PFN_cuLaunchCooperativeKernelMultiDevice_v9000
            fn(launchParamsList: *mut CUDA_LAUNCH_PARAMS, numDevices: c_uint, flags: c_uint) => launch::cooperative_multi_device;
        cuLaunch: PFN_cuLaunch_v2000
            fn(f: CUfunction) => launch::legacy [1];
        cuLaunchGrid: PFN_cuLaunchGrid_v2000
            fn(f: CUfunction, grid_width: c_int, grid_height: c_int) => launch::legacy [3];
        cuLaunchGridAsync: PFN_cuLaunchGridAsync_v2000
            fn(f: CUfunction, grid_width: c_int, grid_height: c_int, hStream: CUstream) => launch::legacy [4];
        cuGraphExecKernelNodeSetParams: PFN_cuGraphExecKernelNodeSetParams_v10010
            fn(hGraphExec: CUgraphExec, hNode: CUgraphNode, nodeParams: *const CUDA_KERNEL_NODE_PARAMS_v1) => launch::set_node_v1;
        cuGraphExecKernelNodeSetParams_v2: PFN_cuGraphExecKernelNodeSetParams_v12000
            fn(hGraphExec: CUgraphExec, hNode: CUgraphNode, nodeParams: *const CUDA_KERNEL_NODE_PARAMS_v2) => launch::set_node;
        cuGraphExecNodeSetParams: PFN_cuGraphExecNodeSetParams_v12020
            fn(hGraphExec: CUgraphExec, hNode: CUgraphNode, nodeParams: *mut CUgraphNodeParams) => launch::set_any_node;
        cuGraphExecUpdate: PFN_cuGraphExecUpdate_v10020
            fn(hGraphExec: CUgraphExec, hGraph: CUgraph, hErrorNode_out: *mut CUgraphNode, updateResult_out: *mut CUgraphExecUpdateResult) => launch::update;
        cuGraphExecUpdate_v2: PFN_cuGraphExecUpdate_v12000
            fn(hGraphExec: CUgraphExec, hGraph: CUgraph, resultInfo: *mut CUgraphExecUpdateResultInfo) => launch::update;

        // Streams.
        cuStreamCreate: PFN_cuStreamCreate_v2000
            fn(phStream: *mut CUstream, Flags: c_uint) => stream::create_plain;
        cuStreamCreateWithPriority: PFN_cuStreamCreateWithPriority_v5050
            fn(phStream: *mut CUstream, flags: c_uint, priority: c_int) => stream::create_plain;
        cuGreenCtxStreamCreate: PFN_cuGreenCtxStreamCreate_v12050
            fn(phStream: *mut CUstream, greenCtx: CUgreenCtx, flags: c_uint, priority: c_int) => stream::create_green;

        // Contexts.
        cuCtxAttach: PFN_cuCtxAttach_v2000
            fn(pctx: *mut CUcontext, flags: c_uint) => context::attach;
        cuCtxDetach: PFN_cuCtxDetach_v2000
            fn(ctx: CUcontext) => context::detach;
        cuGreenCtxDestroy: PFN_cuGreenCtxDestroy_v12040
            fn(hCtx: CUgreenCtx) => vmm::release;
        cuGreenCtxCreate: PFN_cuGreenCtxCreate_v12040
            fn(phCtx: *mut CUgreenCtx, desc: CUdevResourceDesc, dev: CUdevice, flags: c_uint) => context::create_green;
        cuCtxCreate: PFN_cuCtxCreate_v2000
            fn(pctx: *mut CUcontext, flags: c_uint, dev: CUdevice) => context::create_plain [2];
        cuCtxCreate_v2: PFN_cuCtxCreate_v3020
            fn(pctx: *mut CUcontext, flags: c_uint, dev: CUdevice) => context::create_plain [2];
        cuCtxCreate_v3: PFN_cuCtxCreate_v11040
            fn(pctx: *mut CUcontext, paramsArray: *mut CUexecAffinityParam, numParams: c_int, flags: c_uint, dev: CUdevice) => context::create_plain [4];
        cuCtxCreate_v4: PFN_cuCtxCreate_v12050
            fn(pctx: *mut CUcontext, ctxCreateParams: *mut CUctxCreateParams, flags: c_uint, dev: CUdevice) => context::create_plain [3];
        cuCtxDestroy: PFN_cuCtxDestroy_v2000
            fn(ctx: CUcontext) => context::destroy;
        cuCtxDestroy_v2: PFN_cuCtxDestroy_v4000
            fn(ctx: CUcontext) => context::destroy;
        cuDevicePrimaryCtxRetain: PFN_cuDevicePrimaryCtxRetain_v7000
            fn(pctx: *mut CUcontext, dev: CUdevice) => context::retain_primary;
        cuDevicePrimaryCtxRelease: PFN_cuDevicePrimaryCtxRelease_v7000
            fn(dev: CUdevice) => context::release_primary;
        cuDevicePrimaryCtxRelease_v2: PFN_cuDevicePrimaryCtxRelease_v11000
            fn(dev: CUdevice) => context::release_primary;
        cuDevicePrimaryCtxReset: PFN_cuDevicePrimaryCtxReset_v7000
            fn(dev: CUdevice) => context::release_primary;
        cuDevicePrimaryCtxReset_v2: PFN_cuDevicePrimaryCtxReset_v11000
            fn(dev: CUdevice) => context::release_primary;
        cuCtxSetLimit: PFN_cuCtxSetLimit_v3010
            fn(limit: CUlimit, value: usize) => context::set_limit;

        // Copies and fills.
        cuFabricCpyBatchAsync: PFN_cuFabricCpyBatchAsync_v13050, cuFabricCpyBatchAsync_ptsz: PFN_cuFabricCpyBatchAsync_v13050_ptsz
            fn(numOps: usize, opList: *mut CUDA_FABRIC_COPY_BATCH_OP_v1, flags: c_ulonglong, hStream: CUstream) => copy::device [0xff3];
        cuMemBatchDecompressAsync: PFN_cuMemBatchDecompressAsync_v12060, cuMemBatchDecompressAsync_ptsz: PFN_cuMemBatchDecompressAsync_v12060_ptsz
            fn(paramsArray: *mut CUmemDecompressParams, count: usize, flags: c_uint, errorIndex: *mut usize, stream: CUstream) => copy::device [0xff4];
        cuMemcpy: PFN_cuMemcpy_v4000, cuMemcpy_ptds: PFN_cuMemcpy_v7000_ptds
            fn(dst: CUdeviceptr_v2, src: CUdeviceptr_v2, ByteCount: usize) => copy::linear [0xfff];
        cuMemcpy2D: PFN_cuMemcpy2D_v2000
            fn(pCopy: *const CUDA_MEMCPY2D_v1) => copy::device [0xfff];
        cuMemcpy2DAsync: PFN_cuMemcpy2DAsync_v2000
            fn(pCopy: *const CUDA_MEMCPY2D_v1, hStream: CUstream) => copy::device [0xff1];
        cuMemcpy2DAsync_v2: PFN_cuMemcpy2DAsync_v3020, cuMemcpy2DAsync_v2_ptsz: PFN_cuMemcpy2DAsync_v7000_ptsz
            fn(pCopy: *const CUDA_MEMCPY2D_v2, hStream: CUstream) => copy::flat [0xff1];
        cuMemcpy2DUnaligned: PFN_cuMemcpy2DUnaligned_v2000
            fn(pCopy: *const CUDA_MEMCPY2D_v1) => copy::device [0xfff];
        cuMemcpy2DUnaligned_v2: PFN_cuMemcpy2DUnaligned_v3020, cuMemcpy2DUnaligned_v2_ptds: PFN_cuMemcpy2DUnaligned_v7000_ptds
            fn(pCopy: *const CUDA_MEMCPY2D_v2) => copy::flat [0xfff];
        cuMemcpy2D_v2: PFN_cuMemcpy2D_v3020, cuMemcpy2D_v2_ptds: PFN_cuMemcpy2D_v7000_ptds
            fn(pCopy: *const CUDA_MEMCPY2D_v2) => copy::flat [0xfff];
        cuMemcpy3D: PFN_cuMemcpy3D_v2000
            fn(pCopy: *const CUDA_MEMCPY3D_v1) => copy::device [0xfff];
        cuMemcpy3DAsync: PFN_cuMemcpy3DAsync_v2000
            fn(pCopy: *const CUDA_MEMCPY3D_v1, hStream: CUstream) => copy::device [0xff1];
        cuMemcpy3DAsync_v2: PFN_cuMemcpy3DAsync_v3020, cuMemcpy3DAsync_v2_ptsz: PFN_cuMemcpy3DAsync_v7000_ptsz
            fn(pCopy: *const CUDA_MEMCPY3D_v2, hStream: CUstream) => copy::solid [0xff1];
        cuMemcpy3DBatchAsync: PFN_cuMemcpy3DBatchAsync_v12080, cuMemcpy3DBatchAsync_ptsz: PFN_cuMemcpy3DBatchAsync_v12080_ptsz
            fn(numParams: usize, opList: *mut CUDA_MEMCPY3D_BATCH_OP_v1, failIdx: *mut usize, flags: c_ulonglong, hStream: CUstream) => copy::device [0xff4];
        cuMemcpy3DBatchAsync_v2: PFN_cuMemcpy3DBatchAsync_v13000, cuMemcpy3DBatchAsync_v2_ptsz: PFN_cuMemcpy3DBatchAsync_v13000_ptsz
            fn(numParams: usize, opList: *mut CUDA_MEMCPY3D_BATCH_OP_v1, flags: c_ulonglong, hStream: CUstream) => copy::device [0xff3];
        cuMemcpy3DPeer: PFN_cuMemcpy3DPeer_v4000, cuMemcpy3DPeer_ptds: PFN_cuMemcpy3DPeer_v7000_ptds
            fn(pCopy: *const CUDA_MEMCPY3D_PEER_v1) => copy::device [0xfff];
        cuMemcpy3DPeerAsync: PFN_cuMemcpy3DPeerAsync_v4000, cuMemcpy3DPeerAsync_ptsz: PFN_cuMemcpy3DPeerAsync_v7000_ptsz
            fn(pCopy: *const CUDA_MEMCPY3D_PEER_v1, hStream: CUstream) => copy::device [0xff1];
        cuMemcpy3DWithAttributesAsync: PFN_cuMemcpy3DWithAttributesAsync_v13020, cuMemcpy3DWithAttributesAsync_ptsz: PFN_cuMemcpy3DWithAttributesAsync_v13020_ptsz
            fn(op: *mut CUDA_MEMCPY3D_BATCH_OP_v1, flags: c_ulonglong, hStream: CUstream) => copy::device [0xff2];
        cuMemcpy3D_v2: PFN_cuMemcpy3D_v3020, cuMemcpy3D_v2_ptds: PFN_cuMemcpy3D_v7000_ptds
            fn(pCopy: *const CUDA_MEMCPY3D_v2) => copy::solid [0xfff];
        cuMemcpyAsync: PFN_cuMemcpyAsync_v4000, cuMemcpyAsync_ptsz: PFN_cuMemcpyAsync_v7000_ptsz
            fn(dst: CUdeviceptr_v2, src: CUdeviceptr_v2, ByteCount: usize, hStream: CUstream) => copy::linear [0xff3];
        cuMemcpyAtoA: PFN_cuMemcpyAtoA_v2000
            fn(dstArray: CUarray, dstOffset: c_uint, srcArray: CUarray, srcOffset: c_uint, ByteCount: c_uint) => copy::device [0xf4f];
        cuMemcpyAtoA_v2: PFN_cuMemcpyAtoA_v3020, cuMemcpyAtoA_v2_ptds: PFN_cuMemcpyAtoA_v7000_ptds
            fn(dstArray: CUarray, dstOffset: usize, srcArray: CUarray, srcOffset: usize, ByteCount: usize) => copy::device [0xf4f];
        cuMemcpyAtoD: PFN_cuMemcpyAtoD_v2000
            fn(dstDevice: CUdeviceptr_v1, srcArray: CUarray, srcOffset: c_uint, ByteCount: c_uint) => copy::device [0xf3f];
        cuMemcpyAtoD_v2: PFN_cuMemcpyAtoD_v3020, cuMemcpyAtoD_v2_ptds: PFN_cuMemcpyAtoD_v7000_ptds
            fn(dstDevice: CUdeviceptr_v2, srcArray: CUarray, srcOffset: usize, ByteCount: usize) => copy::device [0xf3f];
        cuMemcpyAtoH: PFN_cuMemcpyAtoH_v2000
            fn(dstHost: *mut c_void, srcArray: CUarray, srcOffset: c_uint, ByteCount: c_uint) => copy::host [0xfff];
        cuMemcpyAtoHAsync: PFN_cuMemcpyAtoHAsync_v2000
            fn(dstHost: *mut c_void, srcArray: CUarray, srcOffset: c_uint, ByteCount: c_uint, hStream: CUstream) => copy::host [0xff4];
        cuMemcpyAtoHAsync_v2: PFN_cuMemcpyAtoHAsync_v3020, cuMemcpyAtoHAsync_v2_ptsz: PFN_cuMemcpyAtoHAsync_v7000_ptsz
            fn(dstHost: *mut c_void, srcArray: CUarray, srcOffset: usize, ByteCount: usize, hStream: CUstream) => copy::host [0xff4];
        cuMemcpyAtoH_v2: PFN_cuMemcpyAtoH_v3020, cuMemcpyAtoH_v2_ptds: PFN_cuMemcpyAtoH_v7000_ptds
            fn(dstHost: *mut c_void, srcArray: CUarray, srcOffset: usize, ByteCount: usize) => copy::host [0xfff];
        cuMemcpyBatchAsync: PFN_cuMemcpyBatchAsync_v12080, cuMemcpyBatchAsync_ptsz: PFN_cuMemcpyBatchAsync_v12080_ptsz
            fn(dsts: *mut CUdeviceptr_v2, srcs: *mut CUdeviceptr_v2, sizes: *mut usize, count: usize, attrs: *mut CUmemcpyAttributes_v1, attrIdxs: *mut usize, numAttrs: usize, failIdx: *mut usize, hStream: CUstream) => copy::device [0xff8];
        cuMemcpyBatchAsync_v2: PFN_cuMemcpyBatchAsync_v13000, cuMemcpyBatchAsync_v2_ptsz: PFN_cuMemcpyBatchAsync_v13000_ptsz
            fn(dsts: *mut CUdeviceptr_v2, srcs: *mut CUdeviceptr_v2, sizes: *mut usize, count: usize, attrs: *mut CUmemcpyAttributes_v1, attrIdxs: *mut usize, numAttrs: usize, hStream: CUstream) => copy::device [0xff7];
        cuMemcpyDtoA: PFN_cuMemcpyDtoA_v2000
            fn(dstArray: CUarray, dstOffset: c_uint, srcDevice: CUdeviceptr_v1, ByteCount: c_uint) => copy::device [0xf3f];
        cuMemcpyDtoA_v2: PFN_cuMemcpyDtoA_v3020, cuMemcpyDtoA_v2_ptds: PFN_cuMemcpyDtoA_v7000_ptds
            fn(dstArray: CUarray, dstOffset: usize, srcDevice: CUdeviceptr_v2, ByteCount: usize) => copy::device [0xf3f];
        cuMemcpyDtoD: PFN_cuMemcpyDtoD_v2000
            fn(dstDevice: CUdeviceptr_v1, srcDevice: CUdeviceptr_v1, ByteCount: c_uint) => copy::device [0xf2f];
        cuMemcpyDtoDAsync: PFN_cuMemcpyDtoDAsync_v3000
            fn(dstDevice: CUdeviceptr_v1, srcDevice: CUdeviceptr_v1, ByteCount: c_uint, hStream: CUstream) => copy::device [0xf23];
        cuMemcpyDtoDAsync_v2: PFN_cuMemcpyDtoDAsync_v3020, cuMemcpyDtoDAsync_v2_ptsz: PFN_cuMemcpyDtoDAsync_v7000_ptsz
            fn(dstDevice: CUdeviceptr_v2, srcDevice: CUdeviceptr_v2, ByteCount: usize, hStream: CUstream) => copy::device [0xf23];
        cuMemcpyDtoD_v2: PFN_cuMemcpyDtoD_v3020, cuMemcpyDtoD_v2_ptds: PFN_cuMemcpyDtoD_v7000_ptds
            fn(dstDevice: CUdeviceptr_v2, srcDevice: CUdeviceptr_v2, ByteCount: usize) => copy::device [0xf2f];
        cuMemcpyDtoH: PFN_cuMemcpyDtoH_v2000
            fn(dstHost: *mut c_void, srcDevice: CUdeviceptr_v1, ByteCount: c_uint) => copy::host [0xfff];
        cuMemcpyDtoHAsync: PFN_cuMemcpyDtoHAsync_v2000
            fn(dstHost: *mut c_void, srcDevice: CUdeviceptr_v1, ByteCount: c_uint, hStream: CUstream) => copy::host [0xff3];
        cuMemcpyDtoHAsync_v2: PFN_cuMemcpyDtoHAsync_v3020, cuMemcpyDtoHAsync_v2_ptsz: PFN_cuMemcpyDtoHAsync_v7000_ptsz
            fn(dstHost: *mut c_void, srcDevice: CUdeviceptr_v2, ByteCount: usize, hStream: CUstream) => copy::host [0xff3];
        cuMemcpyDtoH_v2: PFN_cuMemcpyDtoH_v3020, cuMemcpyDtoH_v2_ptds: PFN_cuMemcpyDtoH_v7000_ptds
            fn(dstHost: *mut c_void, srcDevice: CUdeviceptr_v2, ByteCount: usize) => copy::host [0xfff];
        cuMemcpyHtoA: PFN_cuMemcpyHtoA_v2000
            fn(dstArray: CUarray, dstOffset: c_uint, srcHost: *const c_void, ByteCount: c_uint) => copy::host [0xfff];
        cuMemcpyHtoAAsync: PFN_cuMemcpyHtoAAsync_v2000
            fn(dstArray: CUarray, dstOffset: c_uint, srcHost: *const c_void, ByteCount: c_uint, hStream: CUstream) => copy::host [0xff4];
        cuMemcpyHtoAAsync_v2: PFN_cuMemcpyHtoAAsync_v3020, cuMemcpyHtoAAsync_v2_ptsz: PFN_cuMemcpyHtoAAsync_v7000_ptsz
            fn(dstArray: CUarray, dstOffset: usize, srcHost: *const c_void, ByteCount: usize, hStream: CUstream) => copy::host [0xff4];
        cuMemcpyHtoA_v2: PFN_cuMemcpyHtoA_v3020, cuMemcpyHtoA_v2_ptds: PFN_cuMemcpyHtoA_v7000_ptds
            fn(dstArray: CUarray, dstOffset: usize, srcHost: *const c_void, ByteCount: usize) => copy::host [0xfff];
        cuMemcpyHtoD: PFN_cuMemcpyHtoD_v2000
            fn(dstDevice: CUdeviceptr_v1, srcHost: *const c_void, ByteCount: c_uint) => copy::host [0xfff];
        cuMemcpyHtoDAsync: PFN_cuMemcpyHtoDAsync_v2000
            fn(dstDevice: CUdeviceptr_v1, srcHost: *const c_void, ByteCount: c_uint, hStream: CUstream) => copy::host [0xff3];
        cuMemcpyHtoDAsync_v2: PFN_cuMemcpyHtoDAsync_v3020, cuMemcpyHtoDAsync_v2_ptsz: PFN_cuMemcpyHtoDAsync_v7000_ptsz
            fn(dstDevice: CUdeviceptr_v2, srcHost: *const c_void, ByteCount: usize, hStream: CUstream) => copy::host [0xff3];
        cuMemcpyHtoD_v2: PFN_cuMemcpyHtoD_v3020, cuMemcpyHtoD_v2_ptds: PFN_cuMemcpyHtoD_v7000_ptds
            fn(dstDevice: CUdeviceptr_v2, srcHost: *const c_void, ByteCount: usize) => copy::host [0xfff];
        cuMemcpyPeer: PFN_cuMemcpyPeer_v4000, cuMemcpyPeer_ptds: PFN_cuMemcpyPeer_v7000_ptds
            fn(dstDevice: CUdeviceptr_v2, dstContext: CUcontext, srcDevice: CUdeviceptr_v2, srcContext: CUcontext, ByteCount: usize) => copy::device [0xf4f];
        cuMemcpyPeerAsync: PFN_cuMemcpyPeerAsync_v4000, cuMemcpyPeerAsync_ptsz: PFN_cuMemcpyPeerAsync_v7000_ptsz
            fn(dstDevice: CUdeviceptr_v2, dstContext: CUcontext, srcDevice: CUdeviceptr_v2, srcContext: CUcontext, ByteCount: usize, hStream: CUstream) => copy::device [0xf45];
        cuMemcpyWithAttributesAsync: PFN_cuMemcpyWithAttributesAsync_v13020, cuMemcpyWithAttributesAsync_ptsz: PFN_cuMemcpyWithAttributesAsync_v13020_ptsz
            fn(dst: CUdeviceptr_v2, src: CUdeviceptr_v2, size: usize, attr: *mut CUmemcpyAttributes_v1, hStream: CUstream) => copy::linear [0xff4];
        cuMemsetD16: PFN_cuMemsetD16_v2000
            fn(dstDevice: CUdeviceptr_v1, us: c_ushort, N: c_uint) => copy::device [0xf2f];
        cuMemsetD16Async: PFN_cuMemsetD16Async_v3020, cuMemsetD16Async_ptsz: PFN_cuMemsetD16Async_v7000_ptsz
            fn(dstDevice: CUdeviceptr_v2, us: c_ushort, N: usize, hStream: CUstream) => copy::device [0xf23];
        cuMemsetD16_v2: PFN_cuMemsetD16_v3020, cuMemsetD16_v2_ptds: PFN_cuMemsetD16_v7000_ptds
            fn(dstDevice: CUdeviceptr_v2, us: c_ushort, N: usize) => copy::device [0xf2f];
        cuMemsetD2D16: PFN_cuMemsetD2D16_v2000
            fn(dstDevice: CUdeviceptr_v1, dstPitch: c_uint, us: c_ushort, Width: c_uint, Height: c_uint) => copy::device [0x43f];
        cuMemsetD2D16Async: PFN_cuMemsetD2D16Async_v3020, cuMemsetD2D16Async_ptsz: PFN_cuMemsetD2D16Async_v7000_ptsz
            fn(dstDevice: CUdeviceptr_v2, dstPitch: usize, us: c_ushort, Width: usize, Height: usize, hStream: CUstream) => copy::device [0x435];
        cuMemsetD2D16_v2: PFN_cuMemsetD2D16_v3020, cuMemsetD2D16_v2_ptds: PFN_cuMemsetD2D16_v7000_ptds
            fn(dstDevice: CUdeviceptr_v2, dstPitch: usize, us: c_ushort, Width: usize, Height: usize) => copy::device [0x43f];
        cuMemsetD2D32: PFN_cuMemsetD2D32_v2000
            fn(dstDevice: CUdeviceptr_v1, dstPitch: c_uint, ui: c_uint, Width: c_uint, Height: c_uint) => copy::device [0x43f];
        cuMemsetD2D32Async: PFN_cuMemsetD2D32Async_v3020, cuMemsetD2D32Async_ptsz: PFN_cuMemsetD2D32Async_v7000_ptsz
            fn(dstDevice: CUdeviceptr_v2, dstPitch: usize, ui: c_uint, Width: usize, Height: usize, hStream: CUstream) => copy::device [0x435];
        cuMemsetD2D32_v2: PFN_cuMemsetD2D32_v3020, cuMemsetD2D32_v2_ptds: PFN_cuMemsetD2D32_v7000_ptds
            fn(dstDevice: CUdeviceptr_v2, dstPitch: usize, ui: c_uint, Width: usize, Height: usize) => copy::device [0x43f];
        cuMemsetD2D8: PFN_cuMemsetD2D8_v2000
            fn(dstDevice: CUdeviceptr_v1, dstPitch: c_uint, uc: c_uchar, Width: c_uint, Height: c_uint) => copy::device [0x43f];
        cuMemsetD2D8Async: PFN_cuMemsetD2D8Async_v3020, cuMemsetD2D8Async_ptsz: PFN_cuMemsetD2D8Async_v7000_ptsz
            fn(dstDevice: CUdeviceptr_v2, dstPitch: usize, uc: c_uchar, Width: usize, Height: usize, hStream: CUstream) => copy::device [0x435];
        cuMemsetD2D8_v2: PFN_cuMemsetD2D8_v3020, cuMemsetD2D8_v2_ptds: PFN_cuMemsetD2D8_v7000_ptds
            fn(dstDevice: CUdeviceptr_v2, dstPitch: usize, uc: c_uchar, Width: usize, Height: usize) => copy::device [0x43f];
        cuMemsetD32: PFN_cuMemsetD32_v2000
            fn(dstDevice: CUdeviceptr_v1, ui: c_uint, N: c_uint) => copy::device [0xf2f];
        cuMemsetD32Async: PFN_cuMemsetD32Async_v3020, cuMemsetD32Async_ptsz: PFN_cuMemsetD32Async_v7000_ptsz
            fn(dstDevice: CUdeviceptr_v2, ui: c_uint, N: usize, hStream: CUstream) => copy::device [0xf23];
        cuMemsetD32_v2: PFN_cuMemsetD32_v3020, cuMemsetD32_v2_ptds: PFN_cuMemsetD32_v7000_ptds
            fn(dstDevice: CUdeviceptr_v2, ui: c_uint, N: usize) => copy::device [0xf2f];
        cuMemsetD8: PFN_cuMemsetD8_v2000
            fn(dstDevice: CUdeviceptr_v1, uc: c_uchar, N: c_uint) => copy::device [0xf2f];
        cuMemsetD8Async: PFN_cuMemsetD8Async_v3020, cuMemsetD8Async_ptsz: PFN_cuMemsetD8Async_v7000_ptsz
            fn(dstDevice: CUdeviceptr_v2, uc: c_uchar, N: usize, hStream: CUstream) => copy::device [0xf23];
        cuMemsetD8_v2: PFN_cuMemsetD8_v3020, cuMemsetD8_v2_ptds: PFN_cuMemsetD8_v7000_ptds
            fn(dstDevice: CUdeviceptr_v2, uc: c_uchar, N: usize) => copy::device [0xf2f];

        // Streams that wait, and that are waited for.
        cuCtxSynchronize: PFN_cuCtxSynchronize_v2000
            fn() => flow::synchronize_all;
        cuCtxSynchronize_v2: PFN_cuCtxSynchronize_v13000
            fn(ctx: CUcontext) => flow::synchronize_all;
        cuCtxWaitEvent: PFN_cuCtxWaitEvent_v12050
            fn(hCtx: CUcontext, hEvent: CUevent) => flow::all_wait;
        cuEventSynchronize: PFN_cuEventSynchronize_v2000
            fn(hEvent: CUevent) => flow::synchronize_event;
        cuGraphicsMapResources: PFN_cuGraphicsMapResources_v3000, cuGraphicsMapResources_ptsz: PFN_cuGraphicsMapResources_v7000_ptsz
            fn(count: c_uint, resources: *mut CUgraphicsResource, hStream: CUstream) => flow::waits [2];
        cuGraphicsUnmapResources: PFN_cuGraphicsUnmapResources_v3000, cuGraphicsUnmapResources_ptsz: PFN_cuGraphicsUnmapResources_v7000_ptsz
            fn(count: c_uint, resources: *mut CUgraphicsResource, hStream: CUstream) => flow::waits [2];
        cuGreenCtxWaitEvent: PFN_cuGreenCtxWaitEvent_v12040
            fn(hCtx: CUgreenCtx, hEvent: CUevent) => flow::all_wait;
        cuLaunchHostFunc: PFN_cuLaunchHostFunc_v10000, cuLaunchHostFunc_ptsz: PFN_cuLaunchHostFunc_v10000_ptsz
            fn(hStream: CUstream, fn_: CUhostFn, userData: *mut c_void) => flow::waits [0];
        cuLaunchHostFunc_v2: PFN_cuLaunchHostFunc_v13010, cuLaunchHostFunc_v2_ptsz: PFN_cuLaunchHostFunc_v13010_ptsz
            fn(hStream: CUstream, fn_: CUhostFn, userData: *mut c_void, syncMode: c_uint) => flow::waits [0];
        cuSignalExternalSemaphoresAsync: PFN_cuSignalExternalSemaphoresAsync_v10000, cuSignalExternalSemaphoresAsync_ptsz: PFN_cuSignalExternalSemaphoresAsync_v10000_ptsz
            fn(extSemArray: *const CUexternalSemaphore, paramsArray: *const CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS_v1, numExtSems: c_uint, stream: CUstream) => flow::waits [3];
        cuStreamAddCallback: PFN_cuStreamAddCallback_v5000, cuStreamAddCallback_ptsz: PFN_cuStreamAddCallback_v7000_ptsz
            fn(hStream: CUstream, callback: CUstreamCallback, userData: *mut c_void, flags: c_uint) => flow::waits [0];
        cuStreamBatchMemOp: PFN_cuStreamBatchMemOp_v8000
            fn(stream: CUstream, count: c_uint, paramArray: *mut CUstreamBatchMemOpParams, flags: c_uint) => flow::waits [0];
        cuStreamBatchMemOp_ptsz: PFN_cuStreamBatchMemOp_v8000_ptsz
            fn(stream: CUstream, count: c_uint, paramArray: *mut CUstreamBatchMemOpParams_v1, flags: c_uint) => flow::waits [0];
        cuStreamBatchMemOp_v2: PFN_cuStreamBatchMemOp_v11070, cuStreamBatchMemOp_v2_ptsz: PFN_cuStreamBatchMemOp_v11070_ptsz
            fn(stream: CUstream, count: c_uint, paramArray: *mut CUstreamBatchMemOpParams, flags: c_uint) => flow::waits [0];
        cuStreamDestroy: PFN_cuStreamDestroy_v2000
            fn(hStream: CUstream) => flow::destroy;
        cuStreamDestroy_v2: PFN_cuStreamDestroy_v4000
            fn(hStream: CUstream) => flow::destroy;
        cuStreamSynchronize: PFN_cuStreamSynchronize_v2000, cuStreamSynchronize_ptsz: PFN_cuStreamSynchronize_v7000_ptsz
            fn(hStream: CUstream) => flow::synchronize;
        cuStreamWaitEvent: PFN_cuStreamWaitEvent_v3020, cuStreamWaitEvent_ptsz: PFN_cuStreamWaitEvent_v7000_ptsz
            fn(hStream: CUstream, hEvent: CUevent, Flags: c_uint) => flow::waits [0];
        cuStreamWaitValue32: PFN_cuStreamWaitValue32_v8000, cuStreamWaitValue32_ptsz: PFN_cuStreamWaitValue32_v8000_ptsz
            fn(stream: CUstream, addr: CUdeviceptr_v2, value: cuuint32_t, flags: c_uint) => flow::waits [0];
        cuStreamWaitValue32_v2: PFN_cuStreamWaitValue32_v11070, cuStreamWaitValue32_v2_ptsz: PFN_cuStreamWaitValue32_v11070_ptsz
            fn(stream: CUstream, addr: CUdeviceptr_v2, value: cuuint32_t, flags: c_uint) => flow::waits [0];
        cuStreamWaitValue64: PFN_cuStreamWaitValue64_v9000, cuStreamWaitValue64_ptsz: PFN_cuStreamWaitValue64_v9000_ptsz
            fn(stream: CUstream, addr: CUdeviceptr_v2, value: cuuint64_t, flags: c_uint) => flow::waits [0];
        cuStreamWaitValue64_v2: PFN_cuStreamWaitValue64_v11070, cuStreamWaitValue64_v2_ptsz: PFN_cuStreamWaitValue64_v11070_ptsz
            fn(stream: CUstream, addr: CUdeviceptr_v2, value: cuuint64_t, flags: c_uint) => flow::waits [0];
        cuWaitExternalSemaphoresAsync: PFN_cuWaitExternalSemaphoresAsync_v10000, cuWaitExternalSemaphoresAsync_ptsz: PFN_cuWaitExternalSemaphoresAsync_v10000_ptsz
            fn(extSemArray: *const CUexternalSemaphore, paramsArray: *const CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS_v1, numExtSems: c_uint, stream: CUstream) => flow::waits [3];

        // Captures.
        cuStreamBeginCapture: PFN_cuStreamBeginCapture_v10000, cuStreamBeginCapture_ptsz: PFN_cuStreamBeginCapture_v10000_ptsz
            fn(hStream: CUstream) => capture::begin;
        cuStreamBeginCaptureToCig: PFN_cuStreamBeginCaptureToCig_v13010, cuStreamBeginCaptureToCig_ptsz: PFN_cuStreamBeginCaptureToCig_v13010_ptsz
            fn(hStream: CUstream, streamCigCaptureParams: *mut CUstreamCigCaptureParams) => capture::begin;
        cuStreamBeginCaptureToGraph: PFN_cuStreamBeginCaptureToGraph_v12030, cuStreamBeginCaptureToGraph_ptsz: PFN_cuStreamBeginCaptureToGraph_v12030_ptsz
            fn(hStream: CUstream, hGraph: CUgraph, dependencies: *const CUgraphNode, dependencyData: *const CUgraphEdgeData, numDependencies: usize, mode: CUstreamCaptureMode) => capture::begin;
        cuStreamBeginCapture_v2: PFN_cuStreamBeginCapture_v10010, cuStreamBeginCapture_v2_ptsz: PFN_cuStreamBeginCapture_v10010_ptsz
            fn(hStream: CUstream, mode: CUstreamCaptureMode) => capture::begin;
        cuStreamBeginRecaptureToGraph: PFN_cuStreamBeginRecaptureToGraph_v13030, cuStreamBeginRecaptureToGraph_ptsz: PFN_cuStreamBeginRecaptureToGraph_v13030_ptsz
            fn(hStream: CUstream, mode: CUstreamCaptureMode, hGraph: CUgraph, callbackFunc: CUgraphRecaptureCallback, userData: *mut c_void) => capture::begin;
        cuStreamEndCapture: PFN_cuStreamEndCapture_v10000, cuStreamEndCapture_ptsz: PFN_cuStreamEndCapture_v10000_ptsz
            fn(hStream: CUstream, phGraph: *mut CUgraph) => capture::end;
        cuStreamEndCaptureToCig: PFN_cuStreamEndCaptureToCig_v13010, cuStreamEndCaptureToCig_ptsz: PFN_cuStreamEndCaptureToCig_v13010_ptsz
            fn(hStream: CUstream) => capture::end;

        // The size of the GPU that the tenant sees.
        cuMemGetInfo: PFN_cuMemGetInfo_v2000
            fn(free: *mut c_uint, total: *mut c_uint) => info::mem_get_info_v1;
        cuMemGetInfo_v2: PFN_cuMemGetInfo_v3020
            fn(free: *mut usize, total: *mut usize) => info::mem_get_info;
        cuDeviceTotalMem: PFN_cuDeviceTotalMem_v2000
            fn(bytes: *mut c_uint, dev: CUdevice) => info::total_mem_v1;
        cuDeviceTotalMem_v2: PFN_cuDeviceTotalMem_v3020
            fn(bytes: *mut usize, dev: CUdevice) => info::total_mem;
    }

    Nvml -> nvmlReturn_t {
        nvmlDeviceGetMemoryInfo: PFN_nvmlDeviceGetMemoryInfo
            fn(device: nvmlDevice_t, memory: *mut nvmlMemory_t) => info::nvml_memory;
        nvmlDeviceGetMemoryInfo_v2: PFN_nvmlDeviceGetMemoryInfo_v2
            fn(device: nvmlDevice_t, memory: *mut nvmlMemory_v2_t) => info::nvml_memory_v2;

        // The processes on it.
        nvmlDeviceGetComputeRunningProcesses: PFN_nvmlDeviceGetComputeRunningProcesses
            fn(device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v1_t) => processes::list_v1;
        nvmlDeviceGetComputeRunningProcesses_v2: PFN_nvmlDeviceGetComputeRunningProcesses_v2, nvmlDeviceGetComputeRunningProcesses_v3: PFN_nvmlDeviceGetComputeRunningProcesses_v3
            fn(device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t) => processes::list_v2;
        nvmlDeviceGetGraphicsRunningProcesses: PFN_nvmlDeviceGetGraphicsRunningProcesses
            fn(device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v1_t) => processes::list_v1;
        nvmlDeviceGetGraphicsRunningProcesses_v2: PFN_nvmlDeviceGetGraphicsRunningProcesses_v2, nvmlDeviceGetGraphicsRunningProcesses_v3: PFN_nvmlDeviceGetGraphicsRunningProcesses_v3
            fn(device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t) => processes::list_v2;
        nvmlDeviceGetMPSComputeRunningProcesses: PFN_nvmlDeviceGetMPSComputeRunningProcesses
            fn(device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v1_t) => processes::list_v1;
        nvmlDeviceGetMPSComputeRunningProcesses_v2: PFN_nvmlDeviceGetMPSComputeRunningProcesses_v2, nvmlDeviceGetMPSComputeRunningProcesses_v3: PFN_nvmlDeviceGetMPSComputeRunningProcesses_v3
            fn(device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t) => processes::list_v2;
        nvmlDeviceGetRunningProcessDetailList: PFN_nvmlDeviceGetRunningProcessDetailList
            fn(device: nvmlDevice_t, plist: *mut nvmlProcessDetailList_t) => processes::detail;
    }
}

calls! {
    Cuda {
        cuDeviceGetCount: PFN_cuDeviceGetCount_v2000;
        cuDeviceGetUuid_v2: PFN_cuDeviceGetUuid_v11040;
        cuCtxGetDevice: PFN_cuCtxGetDevice_v2000;
        cuCtxGetCurrent: PFN_cuCtxGetCurrent_v4000;
        cuDevicePrimaryCtxGetState: PFN_cuDevicePrimaryCtxGetState_v7000;
        cuDeviceSetMemPool: PFN_cuDeviceSetMemPool_v11020;
        cuMemPoolGetAttribute: PFN_cuMemPoolGetAttribute_v11020;
        cuMemPoolSetAttribute: PFN_cuMemPoolSetAttribute_v11020;
        cuThreadExchangeStreamCaptureMode: PFN_cuThreadExchangeStreamCaptureMode_v10010;
        cuPointerGetAttribute: PFN_cuPointerGetAttribute_v4000;
        cuStreamDestroy_v2: PFN_cuStreamDestroy_v4000;
        cuStreamIsCapturing: PFN_cuStreamIsCapturing_v10000;
        cuStreamGetCaptureInfo: PFN_cuStreamGetCaptureInfo_v10010;
        cuStreamGetCtx: PFN_cuStreamGetCtx_v9020;
        cuStreamQuery: PFN_cuStreamQuery_v2000;
        cuStreamGetFlags: PFN_cuStreamGetFlags_v5050;
        cuCtxSetCurrent: PFN_cuCtxSetCurrent_v4000;
        cuEventCreate: PFN_cuEventCreate_v2000;
        cuEventDestroy_v2: PFN_cuEventDestroy_v4000;
        cuEventRecord: PFN_cuEventRecord_v2000;
        cuEventQuery: PFN_cuEventQuery_v2000;
        cuEventElapsedTime: PFN_cuEventElapsedTime_v2000;
        cuDeviceGetAttribute: PFN_cuDeviceGetAttribute_v2000;
        cuDeviceGetGraphMemAttribute: PFN_cuDeviceGetGraphMemAttribute_v11040;
        cuArrayGetMemoryRequirements: PFN_cuArrayGetMemoryRequirements_v11060;
        cuMipmappedArrayGetMemoryRequirements: PFN_cuMipmappedArrayGetMemoryRequirements_v11060;
        cuGraphGetNodes: PFN_cuGraphGetNodes_v10000;
        cuGraphNodeGetType: PFN_cuGraphNodeGetType_v10000;
        cuGraphMemAllocNodeGetParams: PFN_cuGraphMemAllocNodeGetParams_v11040;
        cuGraphChildGraphNodeGetGraph: PFN_cuGraphChildGraphNodeGetGraph_v10000;
        cuCtxGetLimit: PFN_cuCtxGetLimit_v3010;
        cuFuncGetAttribute: PFN_cuFuncGetAttribute_v2020;
        cuKernelGetAttribute: PFN_cuKernelGetAttribute_v12000;
        cuKernelGetLibrary: PFN_cuKernelGetLibrary_v12050;
        cuLibraryGetKernelCount: PFN_cuLibraryGetKernelCount_v12040;
        cuLibraryEnumerateKernels: PFN_cuLibraryEnumerateKernels_v12040;
        cuGraphKernelNodeGetParams_v2: PFN_cuGraphKernelNodeGetParams_v12000;
        cuMemGetAllocationPropertiesFromHandle: PFN_cuMemGetAllocationPropertiesFromHandle_v10020;
        cuMemGetAddressRange_v2: PFN_cuMemGetAddressRange_v3020;
        cuMemAddressReserve: PFN_cuMemAddressReserve_v10020;
        cuMemAddressFree: PFN_cuMemAddressFree_v10020;
    }
    Nvml {
        nvmlInit_v2: PFN_nvmlInit_v2;
        nvmlDeviceGetHandleByUUID: PFN_nvmlDeviceGetHandleByUUID;
        nvmlDeviceGetHandleByIndex_v2: PFN_nvmlDeviceGetHandleByIndex_v2;
        nvmlDeviceGetUUID: PFN_nvmlDeviceGetUUID;
    }
}
