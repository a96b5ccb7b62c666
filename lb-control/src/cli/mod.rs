//! The command line: `lbctl`, and the commands that it speaks as well.
//!
//! [`main`] is the whole program: by the name it is called by, or by its first argument, it picks one of the rows of
//! `command::COMMANDS`. Everything is asked of the daemon through a [`director::Director`].

pub mod client;
mod command;
pub mod conntrack;
pub mod director;
pub mod ipset;
pub mod iptables;
pub mod ipvsadm;
pub mod labels;
pub mod nfacct;
pub mod nfnl_osf;

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use command::{COMMANDS, Context};

/// Does one command line, the program's name first, and returns the exit code.
pub fn main(arguments: Vec<OsString>) -> u8 {
    let arguments = by_name(arguments);
    let matches = match command::lbctl().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            // Nobody is left to tell when the streams are closed.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(1);
        }
    };
    let socket = matches.get_one::<PathBuf>("socket").cloned().unwrap_or_default();
    let Some((name, arguments)) = matches.subcommand() else { return 1 };
    let mut output = BufWriter::new(io::stdout().lock());
    let mut context = Context { socket, output: &mut output };
    let done = match COMMANDS.iter().find(|row| row.command().get_name() == name) {
        Some(row) => row.run(arguments, &mut context),
        None => return 1,
    };
    match done.and_then(|code| Ok(output.flush().map(|()| code)?)) {
        Ok(code) => code,
        Err(failure) if failure.is_broken_pipe() => 1,
        Err(failure) => {
            eprintln!("lbctl: {failure}");
            1
        }
    }
}

/// `ipvsadm -L` as `lbctl ipvsadm -L`, when that is what the program is called; `iptables-legacy` is `iptables`.
fn by_name(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let name = arguments.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
    let name = OsString::from(name.to_string_lossy().replacen("-legacy", "", 1));
    let is_link = COMMANDS.iter().any(|row| row.command().get_name() == name);
    if is_link && let Some(first) = arguments.first_mut() {
        *first = "lbctl".into();
        arguments.insert(1, name);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn a_link_is_the_command_that_it_is_named_after() {
        assert_eq!(by_name(words("/usr/sbin/ipvsadm -L -n")), words("lbctl ipvsadm -L -n"));
        assert_eq!(by_name(words("ipvsadm-restore")), words("lbctl ipvsadm-restore"));
        assert_eq!(by_name(words("ip6tables-legacy-save -c")), words("lbctl ip6tables-save -c"));
        assert_eq!(by_name(words("/usr/sbin/lbctl status")), words("/usr/sbin/lbctl status"));
    }

    #[test]
    fn arguments_of_other_commands_are_theirs() {
        let line = words("lbctl --socket /tmp/s ipvsadm --help -Lnc --set 1 -p -- --socket");
        let matches = command::lbctl().try_get_matches_from(line).expect("any words");
        let Some(("ipvsadm", arguments)) = matches.subcommand() else { panic!("{matches:?}") };
        let words: Vec<&String> = arguments.get_many("words").expect("words").collect();
        assert_eq!(words, ["--help", "-Lnc", "--set", "1", "-p", "--", "--socket"]);
    }
}
