//! A card cut by MIG, in a plan.

use serde::{Deserialize, Serialize};

use crate::Bdf;

/// One card's MIG layout, from one to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigOp {
    pub bdf: Bdf,
    /// NVML's; the card must still be this one.
    pub uuid: String,
    pub from: MigLayout,
    pub to: MigLayout,
}

/// How a card is cut. Whole: MIG is off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigLayout {
    pub enabled: bool,
    /// By start.
    pub instances: Vec<MigInstance>,
}

/// One GPU instance and the compute instances in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigInstance {
    /// "3g.20gb".
    pub profile: String,
    /// The driver's number of the profile, as `nvidia-smi mig -lgip` shows it.
    pub id: u32,
    /// The first memory slice; none: left to the driver.
    pub start: Option<u32>,
    /// Memory slices.
    pub size: u32,
    /// Compute slices of each compute instance.
    pub compute: Vec<u32>,
}
