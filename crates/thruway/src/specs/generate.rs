//! `thruway cdi generate`.

use anyhow::{Context as _, anyhow};
use cdi::{Mode, Options, Wanted};
use formats::cdispec::Form;
use machine::Kind;
use model::Capabilities;

use super::{options, printed, put};
use crate::cli::{FormWish, GenerateArgs, Global};
use crate::target::Target;
use crate::{DONE, say, warn};

pub fn generate(global: &Global, args: &GenerateArgs) -> anyhow::Result<u8> {
    let target = Target::open(global)?;
    let machine = target.machine();
    let mode = match args.mode.as_str() {
        "auto" => Mode::of(machine),
        name => name.parse().map_err(|says: String| anyhow!(says))?,
    };
    let capabilities = args.capabilities.as_deref().map(Capabilities::parse).transpose().map_err(|word| {
        anyhow!("{word:?} is no capability; there are compute, compat32, graphics, utility, video, display, ngx, all")
    })?;
    let twins = capabilities.filter(|sets| sets.to_string() == "compat32").map(|_| Wanted::Twins);
    let kind = (args.vendor.is_some() || args.class.is_some()).then(|| {
        let (vendor, class) = mode.kind().split_once('/').unwrap_or((mode.kind(), "gpu"));
        format!("{}/{}", args.vendor.as_deref().unwrap_or(vendor), args.class.as_deref().unwrap_or(class))
    });
    let options = Options {
        kind,
        only: args.device_id.clone(),
        capabilities: twins.or(capabilities.map(Wanted::Sets)),
        csv_files: args.csv_file.clone(),
        csv_ignore: args.csv_ignore.clone(),
        ..options(&args.how)
    };
    let (spec, notes) = cdi::generate_mode(machine, mode, &options).context("no CDI spec can be made")?;
    for note in &notes {
        warn(note)?;
    }
    if machine.kind() == Kind::Simulated {
        warn("simulated: this spec describes no real card")?;
    }
    // a kind that was asked for may be none
    if let Some(problem) = spec.problems().first() {
        return Err(anyhow!("engines would refuse this spec: {problem}"));
    }
    let by_name = args.output.as_ref().and_then(|path| Form::of_path(&path.to_string_lossy()));
    let form = match args.format {
        Some(FormWish::Json) => Form::Json,
        Some(FormWish::Yaml) => Form::Yaml,
        None => by_name.unwrap_or(Form::Json),
    };
    let text = printed(&spec, form)?;
    match &args.output {
        None => say(&text)?,
        Some(path) => {
            if by_name.is_none() {
                warn(&format!("{}: engines read only .json and .yaml", path.display()))?;
            }
            put(path, &text)?;
        }
    }
    Ok(DONE)
}
