//! `thruway stress`'s arguments.

use clap::Args;

#[derive(Args, Debug, Clone)]
pub struct StressArgs {
    /// These cards: CUDA's index, a PCI address or a UUID each, with commas between; without it all of them, at once
    #[arg(long, value_name = "GPU", value_delimiter = ',')]
    pub gpu: Vec<String>,
    /// Do not measure the ways between the cards, where there are several
    #[arg(long)]
    pub no_links: bool,
    /// So many seconds
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 60, value_parser = seconds)]
    pub time: u64,
    /// So much of the free memory, in per cent
    #[arg(long, value_name = "PERCENT", default_value_t = 90, value_parser = percent)]
    pub mem: u8,
    /// Use kernels with a fault, which must be found: shows that this would find one
    #[arg(long)]
    pub break_kernel: bool,
}

/// "60", "60s", "5m"
fn seconds(text: &str) -> Result<u64, String> {
    let (number, unit) = text.strip_suffix('m').map_or((text.strip_suffix('s').unwrap_or(text), 1), |text| (text, 60));
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    seconds
        .filter(|seconds| (1..=604_800).contains(seconds))
        .ok_or_else(|| "write 60, 60s or 5m; at most a week".into())
}

/// "90", "90%"
fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number.filter(|percent| (1..=100).contains(percent)).ok_or_else(|| "write 1 to 100".into())
}
