//! Goal: the demo leaves nothing behind, however it ends.
//! Method: the `lab` program itself, through the kernel's NAT, so that this is about the lab alone.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use lab::cleanup::Tag;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn ctrl_c_in_the_middle_of_the_load_leaves_nothing_behind() -> Result<()> {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["demo", "--through", "nft", "--seconds", "60"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(demo.stdout.take().context("no output")?).lines();
    let loading = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("answered by")));
    assert!(loading.is_some(), "the demo ended early: {:?}", demo.wait()?);
    let pid = i32::try_from(demo.id())?;
    kill(Pid::from_raw(pid), Signal::SIGINT)?;
    assert_eq!(demo.wait()?.code(), Some(130));
    let tag = format!("{pid}x0");
    let left: Vec<_> = std::fs::read_dir("/run/netns")?
        .chain(std::fs::read_dir("/tmp")?)
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains(&tag))
        .collect();
    assert_eq!(left, Vec::<String>::new());
    Ok(())
}

#[test]
fn the_demo_through_the_kernel_shows_that_every_real_server_served() -> Result<()> {
    let output = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["demo", "--through", "nft", "--seconds", "1"])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for server in ["s1", "s2", "s3"] {
        let row = text.lines().find(|line| line.starts_with(server)).context("no row")?;
        let requests: usize = row.split_whitespace().nth(1).context("no count")?.parse()?;
        assert!(requests > 3, "{row}");
    }
    Ok(())
}

#[test]
fn stopping_is_harmless_when_no_demo_was_left_running() -> Result<()> {
    if Tag::demo().exists() {
        eprintln!("skipped: a demo is running on this machine, it is left alone");
        return Ok(());
    }
    let output = Command::new(env!("CARGO_BIN_EXE_lab")).arg("stop").output()?;
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "demo: none is running\n");
    Ok(())
}
