//! dlopen, and where drivers keep their libraries.

use std::ffi::CStr;

/// Why a library of the driver could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("{0} is not here")]
    NotFound(&'static str),
    /// Found and not loadable (another architecture, an unreadable file), in the loader's words.
    #[error("{0}")]
    Broken(String),
    #[error("{library} has no {symbol}: the driver is too old")]
    NoSymbol { library: &'static str, symbol: String },
}

/// Where a library of the driver may be: the loader's own search first, then where container hosts, Debian's
/// alternatives, NixOS and WSL keep it.
pub fn places(soname: &str) -> Vec<String> {
    const DIRS: [&str; 9] = [
        "/usr/local/nvidia/lib64",
        "/usr/local/nvidia/lib",
        "/usr/lib/x86_64-linux-gnu/nvidia/current",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu/nvidia/current",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/run/opengl-driver/lib",
        "/usr/lib/wsl/lib",
    ];
    let full = DIRS.iter().map(|dir| format!("{dir}/{soname}"));
    std::iter::once(soname.to_owned()).chain(full).collect()
}

/// A library that stays loaded until the process ends: the driver's own threads may run in it.
#[derive(Clone, Copy)]
pub(crate) struct Library {
    soname: &'static str,
    inner: &'static libloading::Library,
}

impl Library {
    pub(crate) fn open(soname: &'static str) -> Result<Library, LoadError> {
        let mut broken = None;
        for place in places(soname) {
            // SAFETY: loading runs the library's initialisers; these are the driver's, found at the driver's places, and
            // are made to be loaded by any program.
            match unsafe { libloading::Library::new(&place) } {
                Ok(library) => return Ok(Library { soname, inner: Box::leak(Box::new(library)) }),
                Err(error) => {
                    let text = error.to_string();
                    if !text.contains("No such file") {
                        broken.get_or_insert(text);
                    }
                }
            }
        }
        Err(broken.map_or(LoadError::NotFound(soname), LoadError::Broken))
    }

    /// # Safety
    /// `T` is the function pointer type of this symbol.
    pub(crate) unsafe fn symbol<T: Copy>(&self, name: &CStr) -> Result<T, LoadError> {
        // SAFETY: the caller answers for the type; the library is never unloaded.
        let symbol = unsafe { self.inner.get::<T>(name.to_bytes_with_nul()) };
        match symbol {
            Ok(symbol) => Ok(*symbol),
            Err(_) => Err(LoadError::NoSymbol { library: self.soname, symbol: name.to_string_lossy().into_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_here_is_said_to_be() {
        assert_eq!(Library::open("libthruway-none.so.1").err(), Some(LoadError::NotFound("libthruway-none.so.1")));
        assert_eq!(places("libcuda.so.1").first().map(String::as_str), Some("libcuda.so.1"));
    }
}
