//! Modules of PTX, and their kernels.

use std::sync::Arc;

use simcards::abi::{In, Out, Text};
use simcards::branch;
use simcards::view::View;

use crate::errors::{Answer, INVALID_HANDLE, INVALID_VALUE, NO_BINARY_FOR_GPU, NOT_FOUND, NOT_SUPPORTED};
use crate::ptx::{self, Compiler};
use crate::state::{EYE, Handle, Loaded, cuda, current, world};

/// CUjit_option's numbers.
const LOG: i32 = 5;
const LOG_SIZE: i32 = 6;

fn compiler(view: &View, device: usize) -> Answer<Compiler> {
    let world = world();
    let gpu = world.devices.get(device).and_then(|device| view.gpus.get(device.gpu as usize)).ok_or(INVALID_VALUE)?;
    let [major, minor] = gpu.card.compute;
    Ok(Compiler { newest: branch::ptx(view.driver.cuda), sm: u32::try_from(major * 10 + minor).unwrap_or(0) })
}

/// Loads an image; what the compiler has to say goes to `log`.
fn load(view: &View, to: Out<Handle>, image: In, log: &dyn Fn(&str)) -> Answer {
    let (context, device) = current(view)?;
    let magic = image.magic()?;
    // ELF; a fat binary
    if magic == *b"\x7fELF" || magic == [0x50, 0xed, 0x55, 0xba] {
        EYE.tell("a module of machine code was to be loaded, and only PTX is run here");
        return Err(NO_BINARY_FOR_GPU);
    }
    match ptx::parse(&image.get()?, compiler(view, device)?) {
        Ok(module) => {
            let mut world = world();
            let handle = world.handle();
            world.modules.insert(handle, Loaded { context, module });
            Ok(to.put(handle)?)
        }
        Err(refused) => {
            if refused.code == NOT_SUPPORTED {
                EYE.tell(&refused.log);
            }
            log(&refused.log);
            Err(refused.code)
        }
    }
}

cuda! { table:
    fn cuModuleLoadData(module: Out<Handle>, image: In) |view| {
        load(view, module, image, &|_| ())
    }

    fn cuModuleLoadDataEx(module: Out<Handle>, image: In, count: u32, options: Out<i32>, values: Out<*mut std::ffi::c_void>) |view| {
        let option = |wanted: i32| {
            (0..count.min(64) as usize).find(|n| options.at(*n).get() == Ok(wanted)).and_then(|n| values.at(n).get().ok())
        };
        // the size's value is the number itself, and the buffer's its address
        let size = option(LOG_SIZE).map_or(0, |size| size.addr() & 0xffff_ffff);
        let buffer = option(LOG).map(Text::of);
        let log = |text: &str| {
            if let Some(buffer) = buffer {
                let _ = buffer.cut(size, text);
            }
        };
        log("");
        load(view, module, image, &log)
    }

    /// What nvcc packs: machine code.
    fn cuModuleLoadFatBinary(module: Out<Handle>, image: In) |view| {
        load(view, module, image, &|_| ())
    }

    fn cuModuleUnload(module: Handle) |view| {
        current(view)?;
        let mut world = world();
        world.modules.remove(&module).ok_or(INVALID_HANDLE)?;
        world.functions.retain(|_, (of, _)| *of != module);
        Ok(())
    }

    /// The same handle each time it is asked for.
    fn cuModuleGetFunction(function: Out<Handle>, module: Handle, name: In) |view| {
        current(view)?;
        let name = name.get()?;
        let mut world = world();
        let loaded = world.modules.get(&module).ok_or(INVALID_HANDLE)?;
        let entry = loaded.module.entries.iter().find(|entry| entry.name == name).map(Arc::clone);
        let Some(entry) = entry else {
            drop(world);
            EYE.tell(&format!("the module has no kernel {name:?}"));
            return Err(NOT_FOUND);
        };
        let known = world.functions.iter().find(|(_, (of, it))| *of == module && Arc::ptr_eq(it, &entry));
        let handle = match known.map(|(handle, _)| *handle) {
            Some(handle) => handle,
            None => {
                let handle = world.handle();
                world.functions.insert(handle, (module, entry));
                handle
            }
        };
        Ok(function.put(handle)?)
    }

    fn cuModuleGetGlobal_v2(_at: Out<u64>, _bytes: Out<usize>, _module: Handle, _name: In) |_| {
        Err(NOT_FOUND)
    }

    /// Of before CUDA 3.2, with sizes of 32 bits.
    fn cuModuleGetGlobal(_at: Out<u32>, _bytes: Out<u32>, _module: Handle, _name: In) |_| {
        Err(NOT_FOUND)
    }

    /// CUfunction_attribute: threads of a block, registers.
    fn cuFuncGetAttribute(value: Out<i32>, attribute: i32, function: Handle) |_| {
        let world = world();
        let (_, entry) = world.functions.get(&function).ok_or(INVALID_HANDLE)?;
        let number = match attribute {
            0 => 1024,
            1..=3 => 0,
            4 => i32::try_from(entry.params.len()).unwrap_or(0).max(16),
            _ => return Err(INVALID_VALUE),
        };
        Ok(value.put(number)?)
    }

    fn cuFuncSetCacheConfig(_function: Handle, _config: u32) |_| {
        Ok(())
    }
}
