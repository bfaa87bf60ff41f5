//! What clients have changed of a box since: its state file, as TOML.

use serde::{Deserialize, Serialize};

use crate::card::{Error, Instance};

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    #[serde(default)]
    pub gpus: Vec<KeptGpu>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeptGpu {
    pub index: u32,
    /// Laid over the card's table.
    pub set: toml::Table,
}

/// The state's text with this MIG state of one card.
pub fn with_mig(
    text: &str,
    index: u32,
    enabled: bool,
    pending: Option<bool>,
    instances: &[Instance],
) -> Result<String, Error> {
    let mut kept: Kept = toml::from_str(text)?;
    kept.gpus.retain(|kept| kept.index != index);
    let part = |it: &Instance| {
        let mut table = toml::Table::new();
        table.insert("profile".into(), it.profile.clone().into());
        table.insert("gi".into(), i64::from(it.gi).into());
        table.insert("start".into(), i64::from(it.start).into());
        if let Some(compute) = &it.compute {
            let slices = compute.iter().map(|slices| toml::Value::from(i64::from(*slices)));
            table.insert("compute".into(), toml::Value::Array(slices.collect()));
        }
        toml::Value::Table(table)
    };
    let mut mig = toml::Table::new();
    mig.insert("enabled".into(), enabled.into());
    mig.insert("instances".into(), toml::Value::Array(instances.iter().map(part).collect()));
    if let Some(pending) = pending {
        mig.insert("pending".into(), pending.into());
    }
    let mut set = toml::Table::new();
    set.insert("mig".into(), toml::Value::Table(mig));
    kept.gpus.push(KeptGpu { index, set });
    toml::to_string(&kept).map_err(|error| Error::Wrong(error.to_string()))
}
