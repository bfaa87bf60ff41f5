//! demo placeholder
use crate::cli::{DemoArgs, Global};
pub fn demo(_global: &Global, _args: &DemoArgs) -> anyhow::Result<u8> { anyhow::bail!("not yet") }
