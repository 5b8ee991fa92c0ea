//! Green contexts and the resources that they are made of.

use super::{get, put};
use cuota_abi::cuda::{
    CUcontext, CUdevResource, CUdevResourceDesc, CUdevResourceType, CUdevSmResource, CUdevice, CUgreenCtx,
    CUstream,
};
use cuota_sim::driver::{Driver, Split};
use cuota_sim::error::{Answer, Fault};
use std::ffi::{c_int, c_uint, c_ulonglong};

const SM: CUdevResourceType = CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM;
/// The step of shares, which is also the smallest.
const STEP: c_uint = 8;
/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: c_uint = 1;

/// A resource of `sms` multiprocessors.
fn resource(sms: u32) -> CUdevResource {
    // SAFETY: every field is a plain number or a null pointer.
    let mut resource: CUdevResource = unsafe { std::mem::zeroed() };
    resource.type_ = SM;
    resource.__bindgen_anon_1.sm = CUdevSmResource {
        smCount: sms,
        minSmPartitionSize: STEP,
        smCoscheduledAlignment: STEP,
        flags: 0,
        localityDomainId: 0,
    };
    resource
}

fn sms_of(resource: &CUdevResource) -> Answer<u32> {
    if resource.type_ != SM {
        return Err(Fault::InvalidValue);
    }
    // SAFETY: the type says that `sm` is meant, and it is plain numbers.
    Ok(unsafe { resource.__bindgen_anon_1.sm }.smCount)
}

unsafe fn answer(to: *mut CUdevResource, kind: CUdevResourceType, sms: u32) -> Answer<()> {
    if kind != SM {
        return Err(Fault::NotSupported);
    }
    // SAFETY: null or valid by the caller's word.
    unsafe { put(to, resource(sms)) }
}

driver_api! {
    fn cuDeviceGetDevResource(device: CUdevice, result: *mut CUdevResource, type_: CUdevResourceType) {
        let driver = Driver::get()?;
        answer(result, type_, driver.config().sms_of(driver.gpu(device)?.machine_ordinal()))
    }

    fn cuCtxGetDevResource(hCtx: CUcontext, result: *mut CUdevResource, type_: CUdevResourceType) {
        let driver = Driver::get()?;
        let device = driver.context_facts(hCtx as u64)?.device;
        let all = driver.config().sms_of(driver.gpu(device as i32)?.machine_ordinal());
        let context = if hCtx.is_null() { driver.current() } else { hCtx as u64 };
        let green = driver.green_of(context);
        answer(result, type_, if green == 0 { all } else { driver.green_sms(green)? })
    }

    fn cuGreenCtxGetDevResource(hCtx: CUgreenCtx, result: *mut CUdevResource, type_: CUdevResourceType) {
        answer(result, type_, Driver::get()?.green_sms(hCtx as u64)?)
    }

    fn cuDevSmResourceSplitByCount(
        result: *mut CUdevResource,
        nbGroups: *mut c_uint,
        input: *const CUdevResource,
        remaining: *mut CUdevResource,
        useFlags: c_uint,
        minCount: c_uint,
    ) {
        if useFlags != 0 {
            return Err(Fault::NotSupported);
        }
        let asked = if result.is_null() { c_uint::MAX } else { get(nbGroups)? };
        let split = Split::new(sms_of(&get(input)?)?, asked, minCount)?;
        put(nbGroups, split.groups)?;
        if !result.is_null() {
            (0..split.groups as usize).for_each(|group| result.add(group).write(resource(split.sms)));
        }
        super::put_if_asked(remaining, resource(split.left));
        Ok(())
    }

    fn cuDevResourceGenerateDesc(
        phDesc: *mut CUdevResourceDesc,
        resources: *mut CUdevResource,
        nbResources: c_uint,
    ) {
        if phDesc.is_null() || resources.is_null() || nbResources == 0 {
            return Err(Fault::InvalidValue);
        }
        let mut sms = 0;
        for place in 0..nbResources as usize {
            sms += sms_of(&resources.add(place).read())?;
        }
        put(phDesc, Driver::get()?.describe_sms(sms)? as CUdevResourceDesc)
    }

    fn cuGreenCtxCreate(phCtx: *mut CUgreenCtx, desc: CUdevResourceDesc, dev: CUdevice, flags: c_uint) {
        // `CU_GREEN_CTX_DEFAULT_STREAM` is required.
        if phCtx.is_null() || flags != 1 {
            return Err(Fault::InvalidValue);
        }
        put(phCtx, Driver::get()?.create_green(dev, desc as u64)? as CUgreenCtx)
    }

    fn cuGreenCtxDestroy(hCtx: CUgreenCtx) {
        Driver::get()?.destroy_green(hCtx as u64)
    }

    fn cuGreenCtxGetId(greenCtx: CUgreenCtx, greenCtxId: *mut c_ulonglong) {
        Driver::get()?.green_context(greenCtx as u64)?;
        put(greenCtxId, greenCtx as u64)
    }

    fn cuCtxFromGreenCtx(pContext: *mut CUcontext, hCtx: CUgreenCtx) {
        put(pContext, Driver::get()?.green_context(hCtx as u64)? as CUcontext)
    }

    fn cuGreenCtxStreamCreate(phStream: *mut CUstream, greenCtx: CUgreenCtx, flags: c_uint, priority: c_int) {
        if phStream.is_null() || flags != NON_BLOCKING {
            return Err(Fault::InvalidValue);
        }
        let driver = Driver::get()?;
        let context = driver.green_context(greenCtx as u64)?;
        put(phStream, driver.create_stream_in(context, flags, priority)? as CUstream)
    }

    fn cuStreamGetGreenCtx(hStream: CUstream, phCtx: *mut CUgreenCtx) {
        let driver = Driver::get()?;
        let context = driver.stream(hStream as u64, false)?.context;
        put(phCtx, driver.green_of(context) as CUgreenCtx)
    }
}
