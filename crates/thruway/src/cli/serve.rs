//! The arguments of `serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use watch::serve::{Listen, Names};

use super::nvml::duration;

#[derive(Args, Debug, Clone)]
pub struct ServeArgs {
    /// Where: ADDRESS:PORT or unix:/PATH; may be repeated [default: 127.0.0.1:9466 and [::1]:9466]
    #[arg(long, value_name = "WHERE", value_parser = listen)]
    pub listen: Vec<Listen>,
    /// The certificate chain, PEM; read again on SIGHUP
    #[arg(long, value_name = "FILE", requires = "tls_key", help_heading = "Who may ask")]
    pub tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "Who may ask")]
    pub tls_key: Option<PathBuf>,
    /// A file that holds the token: Bearer for Prometheus, any user's password for a browser
    #[arg(long, value_name = "FILE", help_heading = "Who may ask")]
    pub token_file: Option<PathBuf>,
    /// Something before it sees to TLS and to who may ask
    #[arg(long, help_heading = "Who may ask")]
    pub behind_proxy: bool,
    /// A name by which it may be asked over loopback, beside localhost; may be repeated
    #[arg(long, value_name = "NAME", help_heading = "Who may ask")]
    pub host: Vec<String>,
    /// Whose names metrics go by; may be repeated [default: thruway]
    #[arg(long, value_enum, value_name = "WHOSE", help_heading = "Metrics")]
    pub names: Vec<NamesWish>,
    /// How dcgm's label of the machine is spelt: Hostname, or hostname as its newest code does
    #[arg(long, value_enum, value_name = "CASE", default_value_t, help_heading = "Metrics")]
    pub dcgm_hostname: HostWish,
    /// Series of a family at the most; what is over is counted
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = most, help_heading = "Metrics")]
    pub max_series: usize,
    /// A sample that is no older answers a request
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration, help_heading = "Looking")]
    pub fresh: Duration,
    /// Look so often though nobody asks: for the plots
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = duration, help_heading = "Looking")]
    pub every: Duration,
    /// Let the doctor look so often
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration, help_heading = "Looking")]
    pub doctor_every: Duration,
    /// No answer waits longer for a driver that hangs
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration, help_heading = "Looking")]
    pub patience: Duration,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamesWish {
    Thruway,
    /// dcgm-exporter's
    Dcgm,
    #[value(name = "nvidia_gpu_exporter", alias = "nvidia-gpu-exporter", alias = "nvidia_smi")]
    NvidiaGpuExporter,
}

impl NamesWish {
    pub fn names(self) -> Names {
        match self {
            NamesWish::Thruway => Names::Thruway,
            NamesWish::Dcgm => Names::Dcgm,
            NamesWish::NvidiaGpuExporter => Names::NvidiaGpuExporter,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostWish {
    #[default]
    Upper,
    Lower,
}

fn listen(text: &str) -> Result<Listen, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.starts_with('/') {
            Ok(Listen::Unix(path.into()))
        } else {
            Err("a socket's path begins with /".into())
        };
    }
    // ":9466" is what people write for every address
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.replace("localhost:", "127.0.0.1:") };
    full.parse::<SocketAddr>().map(Listen::Tcp).map_err(|_| {
        format!("\"{text}\" is no address with a port: 127.0.0.1:9466, [::1]:9466, unix:/run/thruway.sock")
    })
}

fn most(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|most| (10..=100_000).contains(most)).ok_or_else(|| "between 10 and 100000".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_people_write_them() {
        let tcp = |text: &str| Ok(Listen::Tcp(text.parse().expect("an address")));
        assert_eq!(listen("127.0.0.1:9466"), tcp("127.0.0.1:9466"));
        assert_eq!(listen(":80"), tcp("0.0.0.0:80"));
        assert_eq!(listen("localhost:80"), tcp("127.0.0.1:80"));
        assert_eq!(listen("[::]:80"), tcp("[::]:80"));
        assert_eq!(listen("unix:/run/x.sock"), Ok(Listen::Unix("/run/x.sock".into())));
        for wrong in ["", "9466", "unix:x", "example.org:80", "127.0.0.1"] {
            assert!(listen(wrong).is_err(), "{wrong}");
        }
    }
}
