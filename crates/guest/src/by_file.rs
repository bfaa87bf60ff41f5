//! The driver by NVIDIA's own `.run` file, which the user has fetched: what the plan adds for it.

use gpu::branch::branch_of;
use model::{Before, Builds, Change, DriverFile, Op, PackagesOp, Plan, Refusal, Risk, RunFileOp, Seen, Undo};

use crate::plan::step;
use crate::{Facts, advice, ways};

const BECAUSE: &str = "guest/driver-missing";

pub(crate) fn install(facts: &Facts, file: &DriverFile, plan: &mut Plan) {
    match wanted(facts, file) {
        Ok(op) => changes(facts, op, plan),
        Err(refusal) => plan.refusals.push(refusal),
    }
}

fn refuse<T>(because: &str, says: String, instead: String) -> Result<T, Refusal> {
    Err(Refusal { because: because.into(), says, instead })
}

fn wanted(facts: &Facts, file: &DriverFile) -> Result<RunFileOp, Refusal> {
    let version = &file.version;
    if let Seen::Is(running) = &facts.driver.kernel {
        let says = format!("NVIDIA's driver {running} runs here already");
        return refuse(BECAUSE, says, "take that one away first, and reboot".into());
    }
    if let Some(package) = facts.packages.get().and_then(|all| all.iter().find(|package| package.driver())) {
        let says = format!("the package {} is installed; two drivers by two ways break each other", package.name);
        return refuse(BECAUSE, says, format!("take {} and its kin away first", package.name));
    }
    let Some(needs) = advice::needs(facts) else {
        let says = "which driver the cards here need is not known".to_owned();
        return refuse("guest/driver-branch", says, "thruway guest driver".into());
    };
    let Some(branch) = branch_of(version) else {
        return refuse(BECAUSE, format!("{version} is no driver's version"), "get the file again".into());
    };
    if !needs.runs(branch, needs.kind) {
        let says = format!("driver {version} does not run the cards here: they need {}", needs.says);
        return refuse("guest/driver-branch", says, "get a file of that branch from NVIDIA".into());
    }
    let Seen::Is(release) = &facts.release.value else {
        return refuse(BECAUSE, "which kernel runs could not be seen".into(), "run this as root".into());
    };
    Ok(RunFileOp {
        file: file.clone(),
        open: needs.kind == gpu::ModuleKind::Open,
        dkms: true,
        builds: Builds { release: release.clone(), any_of: vec!["nvidia".into()] },
    })
}

fn changes(facts: &Facts, op: RunFileOp, plan: &mut Plan) {
    let tools = ways::to_build(facts);
    match tools {
        Some((manager, install)) if !install.is_empty() => {
            let op = PackagesOp { manager, install, refresh: facts.offered.is_empty(), builds: None };
            let mut change = step("install what builds kernel modules", Op::Packages(op), Before::Nothing, BECAUSE);
            change.undo = Undo::Inverse;
            plan.changes.push(change);
        }
        Some(_) => {}
        None => plan.notes.push("a compiler, make, dkms and the running kernel's headers must be here".into()),
    }
    let kind = if op.open { "open" } else { "proprietary" };
    let title =
        format!("install NVIDIA's driver {} from its own file, with the {kind} kernel modules", op.file.version);
    let mut change: Change = step(title, Op::RunFile(op), Before::Nothing, BECAUSE);
    change.undo = Undo::Inverse;
    change.risk.push(Risk::Reboot);
    change.risk.push(Risk::Security("NVIDIA's modules run in this kernel; the kernel is tainted by them".into()));
    plan.changes.push(change);
    plan.notes.push(
        "no package manager knows of it: security updates do not come by themselves. Undo runs NVIDIA's own uninstaller, \
         which puts back the files that it had replaced"
            .into(),
    );
    plan.notes.push("after the reboot NVIDIA's driver has the card; thruway never reboots by itself here".into());
    if facts.secure_boot.get() == Some(&true) {
        plan.notes.extend(crate::checks::enrolment(facts));
    }
}
