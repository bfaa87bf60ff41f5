//! `thruway capture`: what is written out for others to read.

use std::path::Path;

use anyhow::Context as _;
use machine::Recorder;

use crate::cli::Global;
use crate::target::Target;
use crate::way::Way;
use crate::{DONE, paint, warn};

/// Records what every observer asks for, and a little more for later readers.
pub fn capture(global: &Global, output: &Path, no_redact: bool) -> anyhow::Result<u8> {
    let target = Target::open(global)?;
    let start = std::time::Instant::now();
    let recorder = Recorder::new(target.machine());
    Way::observe(&recorder);
    machine::capture::extra(&recorder);
    let mut memory = recorder.finish();
    if !no_redact {
        memory = machine::redact::redact(&memory);
    }
    let bytes = machine::capture::write(&memory);
    std::fs::write(output, &bytes).with_context(|| format!("cannot write {}", output.display()))?;
    let redacted = if no_redact { "NOT redacted: keep it to yourself" } else { "redacted" };
    warn(&format!(
        "{}: {} files and links, {}, {redacted}, in {:.1} s. Read it with: thruway doctor --from {0}",
        output.display(),
        memory.nodes().count(),
        paint::bytes(bytes.len() as u64),
        start.elapsed().as_secs_f64(),
    ))?;
    Ok(DONE)
}
