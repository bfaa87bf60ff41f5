//! Who uses the GPU, now and over time: one sampler that keeps NVML open, and what is made of its samples.

pub mod sample;
mod sampler;
pub mod serve;
pub mod top;

pub use sample::{Away, CardNow, ProcessNow, Sample};
pub use sampler::Sampler;
