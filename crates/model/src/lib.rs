//! The words of the house: what was seen, what is wrong, what to change. Data only, no I/O.

mod capability;
mod check;
mod floor;
mod ids;
mod layer;
mod mig;
mod packages;
mod plan;
mod runfile;
mod seen;

pub use capability::{Capabilities, Capability};
pub use check::{About, Check, Evidence, Finding, Fix, Trouble, Verdict, run_all};
pub use floor::{
    A_REBOOT, A_VM_START, GpuRuntime, Guard, Handover, Intent, JellyfinWish, Outcome, OutcomeState, Presence, Tell,
};
pub use ids::{BadId, Bdf, CheckId, Digest, Identity, PciId};
pub use layer::Layer;
pub use mig::{MigInstance, MigLayout, MigOp};
pub use packages::{Builds, Manager, PackagesOp};
pub use plan::{
    ArgsTool, Basis, Before, BindOp, Change, Content, Effective, Hold, JellyfinOp, KubeOp, KubeVerb, Op, PLAN_SCHEMA,
    Plan, Refusal, Risk, ServiceVerb, Taker, Tool, Undo,
};
pub use runfile::{DriverFile, RunFileOp, UNINSTALLER};
pub use seen::{Fact, Reason, Seen, Source};
