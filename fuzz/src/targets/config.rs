//! Any text is a config, or refused in one line for each thing that is wrong. A config can be started, and reloaded
//! from any other to what a start of it makes.
//!
//! The input is one file, or two with the line `#---` between them.

use lb_control::compile::Compiler;
use lb_control::config::{Config, Reload};
use lb_control::model::{Limits, Model};

use crate::director::{listing, sort};

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (first, second) = text.split_once("\n#---\n").unwrap_or((text, text));
    let (Some(first), Some(second)) = (read(first), read(second)) else { return };
    let (Some(mut model), Some(expected)) = (started(&first), started(&second)) else { return };
    let reload = Reload::between(&first, &second, &model);
    if first == second {
        assert!(reload.is_empty(), "{reload:?}");
    }
    // Those of both together may be more than there is room for.
    if model.apply_all(&reload.commands).is_ok() {
        let (mut reloaded, mut expected) = (listing(&model), listing(&expected));
        sort(&mut reloaded.0);
        sort(&mut expected.0);
        assert_eq!(reloaded, expected, "by {:?}", reload.commands);
    }
}

fn read(text: &str) -> Option<Config> {
    let errors = match Config::parse(text) {
        Ok(config) => return Some(config),
        Err(errors) => errors,
    };
    assert!(!errors.is_empty(), "refused without a reason");
    for error in errors {
        let error = error.to_string();
        let line = error.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
        let (line, reason) = line.unwrap_or_else(|| panic!("no line is named: {error:?}"));
        let line: usize = line.parse().unwrap_or_else(|_| panic!("no line is named: {error:?}"));
        assert!(line >= 1 && line <= text.split('\n').count(), "there is no such line: {error:?}");
        assert!(!reason.trim().is_empty() && !error.contains(char::is_control), "not one line: {error:?}");
    }
    None
}

fn started(config: &Config) -> Option<Model> {
    let servers = config.dataplane.max_servers as usize;
    let mut model = Model::new(Limits { services: servers, servers });
    let first = Reload::first(config, &model);
    if let Err((_, error)) = model.apply_all(&first.commands) {
        assert!(!error.message.contains(char::is_control), "not one line: {error:?}");
        return None;
    }
    let tables = Compiler::default().with_model(&model, config.settings());
    assert_eq!(tables.services.len(), config.services.len());
    Some(model)
}
