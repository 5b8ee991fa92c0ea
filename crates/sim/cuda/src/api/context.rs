//! Contexts and the stack of current contexts.

use super::{put, put_if_asked};
use cuota_abi::cuda::{
    CUcontext, CUctxCreateParams, CUdevice, CUexecAffinityParam, CUfunc_cache, CUlimit, CUsharedconfig,
};
use cuota_sim::driver::{Driver, default_limit};
use cuota_sim::error::{Answer, Fault};
use std::ffi::{c_int, c_uint, c_ulonglong};

unsafe fn create(pctx: *mut CUcontext, flags: c_uint, dev: CUdevice) -> Answer<()> {
    if pctx.is_null() {
        return Err(Fault::InvalidValue);
    }
    let context = Driver::get()?.create_context(dev, flags)?;
    // SAFETY: not null, so valid by the caller's word.
    unsafe { put(pctx, context as CUcontext) }
}

unsafe fn pop(pctx: *mut CUcontext) -> Answer<()> {
    let context = Driver::get()?.pop_current()?;
    // SAFETY: null or valid by the caller's word.
    unsafe { put_if_asked(pctx, context as CUcontext) };
    Ok(())
}

driver_api! {
    fn cuCtxCreate(pctx: *mut CUcontext, flags: c_uint, dev: CUdevice) {
        // What an H100's driver says, whatever room there is.
        Driver::get()?.check_old_form().map_err(|_| Fault::OutOfMemory)?;
        create(pctx, flags, dev)
    }

    fn cuCtxCreate_v2(pctx: *mut CUcontext, flags: c_uint, dev: CUdevice) {
        create(pctx, flags, dev)
    }

    fn cuCtxCreate_v3(
        pctx: *mut CUcontext,
        paramsArray: *mut CUexecAffinityParam,
        numParams: c_int,
        flags: c_uint,
        dev: CUdevice,
    ) {
        if numParams != 0 || !paramsArray.is_null() {
            // SM affinity exists under MPS only.
            return Err(Fault::NotSupported);
        }
        create(pctx, flags, dev)
    }

    fn cuCtxCreate_v4(pctx: *mut CUcontext, ctxCreateParams: *mut CUctxCreateParams, flags: c_uint, dev: CUdevice) {
        if !ctxCreateParams.is_null() {
            return Err(Fault::NotSupported);
        }
        create(pctx, flags, dev)
    }

    fn cuCtxAttach(pctx: *mut CUcontext, flags: c_uint) {
        if pctx.is_null() || flags != 0 {
            return Err(Fault::InvalidValue);
        }
        put(pctx, Driver::get()?.attach_context()? as CUcontext)
    }

    fn cuCtxDetach(ctx: CUcontext) {
        Driver::get()?.detach_context(ctx as u64)
    }

    fn cuCtxDestroy(ctx: CUcontext) {
        Driver::get()?.destroy_context(ctx as u64)
    }

    fn cuCtxDestroy_v2(ctx: CUcontext) {
        Driver::get()?.destroy_context(ctx as u64)
    }

    fn cuCtxPushCurrent(ctx: CUcontext) {
        Driver::get()?.push_current(ctx as u64)
    }

    fn cuCtxPushCurrent_v2(ctx: CUcontext) {
        Driver::get()?.push_current(ctx as u64)
    }

    fn cuCtxPopCurrent(pctx: *mut CUcontext) {
        pop(pctx)
    }

    fn cuCtxPopCurrent_v2(pctx: *mut CUcontext) {
        pop(pctx)
    }

    fn cuCtxSetCurrent(ctx: CUcontext) {
        Driver::get()?.set_current(ctx as u64)
    }

    fn cuCtxGetCurrent(pctx: *mut CUcontext) {
        put(pctx, Driver::get()?.current() as CUcontext)
    }

    fn cuCtxGetDevice(device: *mut CUdevice) {
        put(device, Driver::get()?.context_facts(0)?.device as CUdevice)
    }

    fn cuCtxGetDevice_v2(device: *mut CUdevice, ctx: CUcontext) {
        put(device, Driver::get()?.context_facts(ctx as u64)?.device as CUdevice)
    }

    fn cuCtxGetFlags(flags: *mut c_uint) {
        put(flags, Driver::get()?.context_facts(0)?.flags)
    }

    fn cuCtxGetApiVersion(ctx: CUcontext, version: *mut c_uint) {
        Driver::get()?.context_facts(ctx as u64)?;
        put(version, 3020)
    }

    fn cuCtxGetId(ctx: CUcontext, ctxId: *mut c_ulonglong) {
        let driver = Driver::get()?;
        driver.context_facts(ctx as u64)?;
        put(ctxId, if ctx.is_null() { driver.current() } else { ctx as u64 })
    }

    fn cuCtxGetLimit(pvalue: *mut usize, limit: CUlimit) {
        default_limit(limit.0)?;
        let value = Driver::get()?.limit(limit.0)?;
        put(pvalue, value as usize)
    }

    fn cuCtxSetLimit(limit: CUlimit, value: usize) {
        default_limit(limit.0)?;
        Driver::get()?.set_limit(limit.0, value as u64)
    }

    fn cuCtxGetStreamPriorityRange(leastPriority: *mut c_int, greatestPriority: *mut c_int) {
        Driver::get()?.current_device()?;
        put_if_asked(leastPriority, 0);
        put_if_asked(greatestPriority, -5);
        Ok(())
    }

    fn cuCtxGetCacheConfig(pconfig: *mut CUfunc_cache) {
        Driver::get()?.current_device()?;
        put(pconfig, CUfunc_cache(0))
    }

    fn cuCtxSetCacheConfig(config: CUfunc_cache) {
        // A preference without effect, on this device as on every one without a choice of caches.
        if config.0 > 3 { Err(Fault::InvalidValue) } else { Driver::get()?.current_device().map(|_| ()) }
    }

    fn cuCtxGetSharedMemConfig(pConfig: *mut CUsharedconfig) {
        Driver::get()?.current_device()?;
        put(pConfig, CUsharedconfig(1))
    }

    fn cuDevicePrimaryCtxRetain(pctx: *mut CUcontext, dev: CUdevice) {
        if pctx.is_null() {
            return Err(Fault::InvalidValue);
        }
        put(pctx, Driver::get()?.retain_primary(dev)? as CUcontext)
    }

    fn cuDevicePrimaryCtxRelease(dev: CUdevice) {
        Driver::get()?.release_primary(dev)
    }

    fn cuDevicePrimaryCtxRelease_v2(dev: CUdevice) {
        Driver::get()?.release_primary(dev)
    }

    fn cuDevicePrimaryCtxReset(dev: CUdevice) {
        Driver::get()?.reset_primary(dev)
    }

    fn cuDevicePrimaryCtxReset_v2(dev: CUdevice) {
        Driver::get()?.reset_primary(dev)
    }

    fn cuDevicePrimaryCtxSetFlags(dev: CUdevice, flags: c_uint) {
        Driver::get()?.set_primary_flags(dev, flags)
    }

    fn cuDevicePrimaryCtxSetFlags_v2(dev: CUdevice, flags: c_uint) {
        Driver::get()?.set_primary_flags(dev, flags)
    }

    fn cuDevicePrimaryCtxGetState(dev: CUdevice, flags: *mut c_uint, active: *mut c_int) {
        let (held, alive) = Driver::get()?.primary_state(dev)?;
        put(flags, held)?;
        put(active, c_int::from(alive))
    }
}
