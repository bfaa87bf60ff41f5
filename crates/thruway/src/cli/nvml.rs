//! The arguments of `gpus` and `smi`.

use std::time::Duration;

use clap::Args;
use model::Bdf;

#[derive(Args, Debug, Clone, Default)]
pub struct GpusArgs {
    /// Only this card
    #[arg(value_name = "BDF")]
    pub card: Option<Bdf>,
    /// Look again and again, and tell of Xids as they come
    #[arg(long)]
    pub watch: bool,
    /// Time between two looks: 500ms, 1s, 2m
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration, requires = "watch")]
    pub every: Duration,
    /// End after this time; without it Ctrl-C ends it
    #[arg(long = "for", value_name = "TIME", value_parser = duration, requires = "watch")]
    pub span: Option<Duration>,
}

#[derive(Args, Debug, Clone, Default)]
pub struct SmiArgs {
    /// List the GPUs and their MIG devices by name and UUID
    #[arg(short = 'L', long = "list-gpus", conflicts_with_all = ["query", "query_gpu", "query_compute_apps"])]
    pub list: bool,
    /// Everything, in words
    #[arg(short = 'q', long = "query")]
    pub query: bool,
    /// With -q: as XML
    #[arg(short = 'x', long = "xml-format", requires = "query")]
    pub xml: bool,
    /// Only these GPUs: index, UUID, serial number or PCI address, separated by commas
    #[arg(short = 'i', long = "id", value_name = "ID")]
    pub id: Option<String>,
    /// These fields of each GPU, separated by commas; --help-query-gpu lists them
    #[arg(long = "query-gpu", value_name = "FIELDS", conflicts_with_all = ["query", "query_compute_apps"])]
    pub query_gpu: Option<String>,
    /// These fields of each process that computes; --help-query-compute-apps lists them
    #[arg(long = "query-compute-apps", value_name = "FIELDS", conflicts_with = "query")]
    pub query_compute_apps: Option<String>,
    /// csv, and with it noheader, nounits
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// List the fields of --query-gpu
    #[arg(long = "help-query-gpu")]
    pub help_query_gpu: bool,
    /// List the fields of --query-compute-apps
    #[arg(long = "help-query-compute-apps")]
    pub help_query_compute_apps: bool,
    /// Print again every so many seconds, until Ctrl-C
    #[arg(short = 'l', long = "loop", value_name = "SECONDS", num_args = 0..=1, default_missing_value = "5")]
    pub every: Option<u32>,
}

/// "500ms", "1s", "2m"; a bare number is seconds. Between a tenth of a second and a day.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| format!("\"{text}\" is no time; write 500ms, 1s or 2m"))?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(format!("\"{unit}\" is no unit of time; ms, s, m and h are")),
    };
    if !(0.1..=86_400.0).contains(&seconds) {
        return Err("between 100ms and 24h".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let ms = |text: &str| duration(text).map(|time| time.as_millis());
        assert_eq!((ms("500ms"), ms("1s"), ms("2m"), ms("3")), (Ok(500), Ok(1000), Ok(120_000), Ok(3000)));
        for wrong in ["", "s", "1x", "0", "25h", "1.2.3s", "-1s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
