//! `thruway gpus --watch`.
use crate::cli::{Global, GpusArgs};
pub fn watch(_global: &Global, _args: &GpusArgs) -> anyhow::Result<u8> {
    anyhow::bail!("soon")
}
