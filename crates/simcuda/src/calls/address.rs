//! cuGetProcAddress: functions by name and version.
#![allow(unsafe_code, reason = "exported by their names")]

use std::ffi::c_void;

use simcards::abi::{In, Out};

use super::{context, copies, device, launch, memory, module, peer, refused, stream};
use crate::errors::{Answer, NOT_FOUND};
use crate::state::guard;

/// CUdriverProcAddressQueryResult.
const FOUND: i32 = 0;
const NO_SUCH: i32 = 1;

fn own() -> Vec<(&'static str, *const ())> {
    vec![
        ("cuGetProcAddress", cuGetProcAddress as *const ()),
        ("cuGetProcAddress_v2", cuGetProcAddress_v2 as *const ()),
        ("cuInit", device::cuInit as *const ()),
        ("cuDriverGetVersion", device::cuDriverGetVersion as *const ()),
        ("cuGetErrorName", device::cuGetErrorName as *const ()),
        ("cuGetErrorString", device::cuGetErrorString as *const ()),
    ]
}

/// The newest form of a function that a version of CUDA knows: names are asked for without their `_v2`.
fn find(name: &str, version: i32) -> Option<*const ()> {
    let tables = [
        own,
        device::table,
        context::table,
        memory::table,
        copies::table,
        module::table,
        launch::table,
        peer::table,
        stream::table,
        refused::table,
    ];
    let all: Vec<(&str, *const ())> = tables.iter().flat_map(|table| table()).collect();
    let get = |name: &str| all.iter().find(|(known, _)| *known == name).map(|(_, place)| *place);
    // a version that is asked for by name is no function's name here (the driver says so too)
    if name.ends_with("_v2") || name.ends_with("_v4") {
        return None;
    }
    let newest = if version >= 12_050 { get(&format!("{name}_v4")) } else { None };
    newest.or_else(|| get(&format!("{name}_v2"))).or_else(|| get(name))
}

fn answer(name: In, place: Out<*const c_void>, version: i32) -> Answer<bool> {
    let found = find(&name.get()?, version);
    place.put(found.map_or(std::ptr::null(), |place| place.cast()))?;
    Ok(found.is_some())
}

#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the C interface")]
unsafe extern "C" fn cuGetProcAddress(name: In, place: Out<*const c_void>, version: i32, _flags: u64) -> i32 {
    guard("cuGetProcAddress", || if answer(name, place, version)? { Ok(()) } else { Err(NOT_FOUND) })
}

#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the C interface")]
unsafe extern "C" fn cuGetProcAddress_v2(
    name: In,
    place: Out<*const c_void>,
    version: i32,
    _flags: u64,
    status: Out<i32>,
) -> i32 {
    if status.is_null() {
        return guard("cuGetProcAddress_v2", || if answer(name, place, version)? { Ok(()) } else { Err(NOT_FOUND) });
    }
    guard("cuGetProcAddress_v2", || {
        let found = answer(name, place, version)?;
        Ok(status.put(if found { FOUND } else { NO_SUCH })?)
    })
}
