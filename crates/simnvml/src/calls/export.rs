//! What nvidia-smi asks for before all else: a table of NVIDIA's own, unnamed functions. It is documented nowhere, so every
//! entry here says "not supported", and nvidia-smi shows N/A where it wanted one.

use crate::abi::{NOT_SUPPORTED, Out, nvml};
use crate::state::enter;

/// More than any branch has.
const ENTRIES: usize = 1024;

/// Begins with its size in bytes, as CUDA's tables of that kind do.
#[repr(C)]
pub(crate) struct Table {
    size: usize,
    functions: [extern "C" fn() -> u32; ENTRIES],
}

static TABLE: Table = Table { size: size_of::<Table>(), functions: [unnamed; ENTRIES] };

/// Whatever its arguments are, they are not looked at.
extern "C" fn unnamed() -> u32 {
    enter("nvmlInternalGetExportTable entry", |_| Err(NOT_SUPPORTED))
}

nvml! {
    /// The same table for every id (16 bytes).
    fn nvmlInternalGetExportTable(table: Out<*const Table>, id: Out<[u8; 16]>) |_| {
        id.get()?;
        table.put(&raw const TABLE)
    }
}
