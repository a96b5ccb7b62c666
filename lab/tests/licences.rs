//! Goal: nothing that we build on forbids the use that our own licence allows.
//! Method: the licence expression of every dependency, as cargo knows it, against a list.

use std::process::Command;

use anyhow::{Context, Result};
use spdx::{Expression, ParseMode};

/// Licences that ask for no more than their notice.
const ALLOWED: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "0BSD",
    "CC0-1.0",
    "BSL-1.0",
    "Unlicense",
    // As MIT and BSD-3-Clause together; of LLVM (libFuzzer, which is in no product).
    "NCSA",
];
/// The exception that LLVM puts on Apache-2.0, which only adds freedom.
const ALLOWED_EXCEPTION: &str = "LLVM-exception";

#[test]
fn every_dependency_has_a_permissive_licence() -> Result<()> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--all-features",
            "--manifest-path",
            manifest,
        ])
        .output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    assert!(packages.len() > 20, "only {} packages", packages.len());
    let refused: Vec<String> = packages
        .iter()
        .filter_map(|package| {
            let name = format!("{} {}", package["name"], package["version"]);
            match package["license"].as_str() {
                None => Some(format!("{name}: names no licence")),
                Some(licence) if is_permissive(licence) => None,
                Some(licence) => Some(format!("{name}: {licence} is not on the list")),
            }
        })
        .collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    Ok(())
}

#[test]
fn a_copyleft_licence_without_an_alternative_is_refused() {
    assert!(is_permissive("MIT OR GPL-2.0-only"));
    assert!(is_permissive("Apache-2.0 WITH LLVM-exception"));
    assert!(!is_permissive("GPL-2.0-only"));
    assert!(!is_permissive("MIT AND LGPL-2.1-or-later"));
    assert!(!is_permissive("whatever"));
}

fn is_permissive(licence: &str) -> bool {
    Expression::parse_mode(licence, ParseMode::LAX).is_ok_and(|expression| {
        expression.evaluate(|wanted| {
            let exception =
                wanted.addition.as_ref().is_none_or(|addition| addition.to_string() == ALLOWED_EXCEPTION);
            exception && wanted.license.id().is_some_and(|id| ALLOWED.contains(&id.name))
        })
    })
}
