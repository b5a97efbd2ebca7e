//! `cargo xtask build-probe` and `cargo xtask probe`: the programs for the kernel.
//!
//! They are built with a core library that is built along, from the source of the compiler's own
//! version, and linked by bpf-linker. Neither comes with a stable toolchain everywhere, so the
//! stripped object is committed, and is the same byte for byte wherever it is built: a build here
//! proves that it is what its source says.

use crate::install;
use crate::place;
use crate::process::{self, Outcome};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The last line that links with the LLVM inside rustc 1.95.
const LINKER: &str = "0.10.3";
/// The compiler whose source Debian has, and the package with it.
const SOURCE: (&str, &str) = ("1.95.0", "1.95.0+dfsg1-2~bpo13+1");
/// Where Debian has that.
const SUITE: &str = "trixie-backports";
/// The committed object, below the root.
const OBJECT: &str = "ebpf/probe.bpf.o";

/// Build the programs for the kernel.
#[derive(clap::Args)]
pub(crate) struct Build {
    /// Compare with the committed object instead of replacing it
    #[arg(long)]
    check: bool,
    /// Get what is missing: bpf-linker with cargo, the compiler's source from Debian
    #[arg(long)]
    install: bool,
}

/// What is needed to build them.
struct Tools {
    /// The directory of bpf-linker; none: it is on the path.
    linker: Option<PathBuf>,
    /// The `library` folder of the compiler's source; none: it came with the toolchain.
    source: Option<PathBuf>,
    library: PathBuf,
}

/// Builds, and replaces or compares.
pub(crate) fn build(options: &Build) -> Outcome<()> {
    if options.install {
        install_tools()?;
    }
    let tools = match tools() {
        Ok(tools) => tools,
        Err(missing) if options.check => {
            println!("not built here: {missing}; the committed object is used as it is");
            return Ok(());
        }
        Err(missing) => {
            return Err(format!("{missing}\n`cargo xtask build-probe --install` gets it"));
        }
    };
    let built = tools.build()?;
    let committed = place::root().join(OBJECT);
    let same = fs::read(&committed).is_ok_and(|object| object == built);
    match (options.check, same) {
        (_, true) => println!("{OBJECT} is what its source says, {} bytes", built.len()),
        (true, false) => {
            return Err(format!(
                "{OBJECT} is not what its source says; run cargo xtask build-probe"
            ));
        }
        (false, false) => {
            fs::write(&committed, &built).map_err(|why| format!("{OBJECT}: {why}"))?;
            println!("wrote {OBJECT}, {} bytes", built.len());
        }
    }
    Ok(())
}

/// Builds what is committed anew and compares, if what that takes can be had.
pub(crate) fn prove() -> Outcome<()> {
    if tools().is_err()
        && let Err(error) = install_tools()
    {
        println!("not built here: {error}; the committed object is used as it is");
        return Ok(());
    }
    build(&Build { check: true, install: false })
}

/// Shows what the probe sees: runs `pgring probe`.
pub(crate) fn watch(arguments: &[String]) -> Outcome<()> {
    let mut command = Command::new("cargo");
    command.current_dir(place::root()).args(["run", "--quiet", "--release", "--package", "pgring"]);
    process::show(command.args(["--", "probe"]).args(arguments))
}

/// Where tools go that this task gets.
fn own() -> PathBuf {
    place::target().join("probe-tools")
}

/// The object is the same only by the same compiler: another one has another LLVM.
fn compiler() -> Outcome<()> {
    let version = process::output(Command::new("rustc").arg("--version"))?;
    if version.split_whitespace().nth(1) == Some(SOURCE.0) {
        return Ok(());
    }
    Err(format!("it takes rustc {}, this is {}", SOURCE.0, version.trim()))
}

/// Whether this is the bpf-linker that it takes.
fn is_linker(program: &Path) -> bool {
    process::output(Command::new(program).arg("--version")).is_ok_and(|it| it.contains(LINKER))
}

fn tools() -> Outcome<Tools> {
    compiler()?;
    if !install::works("llvm-objcopy", &["--version"]) {
        return Err("there is no llvm-objcopy".into());
    }
    let here = own().join("bin");
    let linker = if is_linker(&here.join("bpf-linker")) {
        Some(here)
    } else if is_linker(Path::new("bpf-linker")) {
        None
    } else {
        return Err(format!("there is no bpf-linker {LINKER}"));
    };
    let sysroot = process::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let shipped = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
    let package = own().join(format!("rust-src/usr/src/rustc-{}/library", SOURCE.0));
    let given = env::var_os("PGRING_RUST_SRC").map(PathBuf::from);
    let is_source = |path: &Path| path.join("core/src/lib.rs").exists();
    if let Some(source) = given {
        if !is_source(&source) {
            return Err(format!("PGRING_RUST_SRC={} is no library folder", source.display()));
        }
        return Ok(Tools { linker, source: Some(source.clone()), library: source });
    }
    if is_source(&shipped) {
        return Ok(Tools { linker, source: None, library: shipped });
    }
    if is_source(&package) {
        return Ok(Tools { linker, source: Some(package.clone()), library: package });
    }
    Err("there is no source of the compiler's core library (rustup component add rust-src)".into())
}

impl Tools {
    fn build(&self) -> Outcome<Vec<u8>> {
        let crates = place::root().join("ebpf");
        let target = place::target().join("probe");
        let home = env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
        let registry = home.ok_or("neither CARGO_HOME nor HOME is set")?.join("registry/src");
        let mut flags = vec![
            "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
            "-Cdebuginfo=2".to_owned(),
            "-Clink-arg=--btf".to_owned(),
        ];
        // Nothing of this machine goes into the object.
        let mut remap = |from: &Path, to: &str| {
            flags.push(format!("--remap-path-prefix={}={to}", from.display()));
        };
        remap(&self.library, "/rust");
        for index in fs::read_dir(&registry).into_iter().flatten().flatten() {
            remap(&index.path(), "/crates");
        }
        remap(&crates, "/probe");
        let mut command = Command::new("cargo");
        command
            .current_dir(&crates)
            .args(["build", "--quiet", "--release", "--locked", "-Zbuild-std=core"])
            .args(["--target", "bpfel-unknown-none", "--target-dir"])
            .arg(&target)
            // The stable compiler takes unstable flags with this.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        for outer in ["RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS"] {
            command.env_remove(outer);
        }
        if let Some(source) = &self.source {
            command.env("__CARGO_TESTS_ONLY_SRC_ROOT", source);
        }
        if let Some(linker) = &self.linker {
            let path = env::var_os("PATH").unwrap_or_default();
            let paths = std::iter::once(linker.clone()).chain(env::split_paths(&path));
            command.env("PATH", env::join_paths(paths).map_err(|why| why.to_string())?);
        }
        process::show(&mut command)?;
        let (full, small) =
            (target.join("bpfel-unknown-none/release/probe"), target.join("probe.bpf.o"));
        let mut strip = Command::new("llvm-objcopy");
        process::output(strip.arg("--strip-debug").arg(&full).arg(&small))?;
        fs::read(&small).map_err(|why| format!("{}: {why}", small.display()))
    }
}

fn install_tools() -> Outcome<()> {
    compiler()?;
    if !install::works("llvm-objcopy", &["--version"]) {
        install::packages(&["llvm"])?;
    }
    if !is_linker(&own().join("bin/bpf-linker")) && !is_linker(Path::new("bpf-linker")) {
        let mut cargo = Command::new("cargo");
        cargo.args(["install", "bpf-linker", "--locked", "--version", LINKER, "--root"]);
        process::show(cargo.arg(own()))?;
    }
    if tools().is_ok() {
        return Ok(());
    }
    if install::works("rustup", &["component", "add", "rust-src"]) {
        return Ok(());
    }
    source_of_debian()
}

/// Debian's package of the compiler's source: data only, and nothing of it is installed.
fn source_of_debian() -> Outcome<()> {
    let here = own().join("apt");
    place::create(&here.join("lists/partial"))?;
    place::create(&here.join("cache/archives/partial"))?;
    let mirror = mirror().ok_or("apt has no mirror of Debian in its sources")?;
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let list = here.join("backports.list");
    fs::write(&list, format!("deb [signed-by={keys}] {mirror} {SUITE} main\n"))
        .map_err(|why| format!("{}: {why}", list.display()))?;
    let settings = [
        format!("Dir::State::Lists={}", here.join("lists").display()),
        format!("Dir::Etc::sourcelist={}", list.display()),
        "Dir::Etc::sourceparts=/nonexistent".to_owned(),
        format!("Dir::Cache={}", here.join("cache").display()),
    ];
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.current_dir(&here).arg("-q");
        for setting in &settings {
            command.args(["-o", setting]);
        }
        process::show(command.args(arguments))
    };
    apt(&["update"])?;
    apt(&["download", &format!("rust-src={}", SOURCE.1)])?;
    let found = fs::read_dir(&here).into_iter().flatten().flatten().map(|entry| entry.path());
    let package = found.filter(|path| path.extension().is_some_and(|it| it == "deb")).last();
    let package = package.ok_or("apt-get download left no package")?;
    process::show(Command::new("dpkg").arg("-x").arg(&package).arg(own().join("rust-src")))
}

/// A mirror of Debian that apt knows.
fn mirror() -> Option<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let more = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    files.extend(more.map(|entry| entry.path()));
    let texts: Vec<String> =
        files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
    let words = texts.iter().flat_map(|text| {
        text.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace)
    });
    let mut mirrors = words
        .filter(|word| word.starts_with("http") && word.trim_end_matches('/').ends_with("/debian"));
    mirrors.next().map(str::to_owned)
}
