//! `lbctl man`: the man pages, of `lbd` too.

use std::fs;
use std::io;
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, CommandFactory, ValueHint, value_parser};
use clap_mangen::Man as Page;
use clap_mangen::roff::{Roff, bold, roman};

use super::{COMMANDS, Context, DEFAULT_SOCKET, Failure, OwnCommand, lbctl};
use crate::arguments::{Arguments, LOG_VARIABLE};

pub(super) struct Man;

/// What a man page has besides what follows from the command's arguments.
pub(in crate::cli) struct Section {
    pub(in crate::cli) title: &'static str,
    pub(in crate::cli) content: Content,
}

pub(in crate::cli) enum Content {
    /// A name, and what it is.
    Rows(Vec<(String, String)>),
    /// Lines as they are, columns and all.
    Lines(String),
}

impl OwnCommand for Man {
    fn command(&self) -> Command {
        let directory = Arg::new("directory")
            .long("directory")
            .value_name("PATH")
            .value_parser(value_parser!(PathBuf))
            .value_hint(ValueHint::DirPath)
            .help("Write the pages of all commands, and of lbd, into this directory");
        Command::new("man").about("Print lbctl's man page (lbctl man | man -l -)").arg(directory)
    }

    fn run(&self, matches: &ArgMatches, context: &mut Context<'_>) -> Result<u8, Failure> {
        let mut lbctl = lbctl().disable_help_subcommand(true);
        lbctl.build();
        let Some(directory) = matches.get_one::<PathBuf>("directory") else {
            context.output.write_all(&page(lbctl, "1", &of_lbctl())?.1)?;
            return Ok(0);
        };
        let mut pages = vec![page(Arguments::command(), "8", &of_lbd())?];
        for row in COMMANDS {
            if let Some(command) = lbctl.find_subcommand(row.command().get_name()) {
                pages.push(page(command.clone(), "1", &row.manual())?);
            }
        }
        pages.push(page(lbctl, "1", &of_lbctl())?);
        for (name, text) in pages {
            fs::write(directory.join(name), text)?;
        }
        Ok(0)
    }
}

/// Name and text of a page. The command's own closing words stand in `sections`, as they are wanted there.
fn page(command: Command, number: &str, sections: &[Section]) -> io::Result<(String, Vec<u8>)> {
    let source = format!("lb {}", env!("CARGO_PKG_VERSION"));
    let page = Page::new(command.after_help(None::<&'static str>)).section(number).source(source);
    let mut text = Vec::new();
    page.render(&mut text)?;
    for section in sections {
        text.extend(section.roff().to_roff().into_bytes());
    }
    Ok((page.get_filename(), text))
}

impl Section {
    fn roff(&self) -> Roff {
        let mut roff = Roff::new();
        roff.control("SH", [self.title]);
        match &self.content {
            Content::Rows(rows) => {
                for (name, what) in rows {
                    roff.control("TP", []).text([bold(name)]).text([roman(what)]);
                }
            }
            Content::Lines(lines) => {
                roff.control("nf", []);
                for line in lines.trim_end().lines() {
                    roff.text([roman(line)]);
                }
                roff.control("fi", []);
            }
        }
        roff
    }
}

fn rows(title: &'static str, rows: &[(&str, &str)]) -> Section {
    let owned = |&(name, what): &(&str, &str)| (name.to_owned(), what.to_owned());
    Section { title, content: Content::Rows(rows.iter().map(owned).collect()) }
}

fn of_lbctl() -> Vec<Section> {
    let links = lbctl().get_after_help().map(ToString::to_string).unwrap_or_default();
    vec![
        Section { title: "LINKS", content: Content::Lines(links) },
        rows("ENVIRONMENT", &[("LB_SOCKET", "Where lbd listens, if --socket does not say it.")]),
        rows("FILES", &[(DEFAULT_SOCKET, "The socket, if neither says it.")]),
        rows("SEE ALSO", &[("lbd(8)", "The daemon.")]),
    ]
}

fn of_lbd() -> Vec<Section> {
    vec![
        rows(
            "SIGNALS",
            &[
                ("SIGHUP", "Reads the config file again and applies the difference."),
                ("SIGTERM, SIGINT", "Stop, after dataplane.drain_secs; a second one stops at once."),
            ],
        ),
        rows(
            "EXIT STATUS",
            &[
                ("0", "It was told to stop, or the config file is valid."),
                ("1", "It does not start, or the config file is not valid: one line says why."),
            ],
        ),
        rows(
            "ENVIRONMENT",
            &[(
                LOG_VARIABLE,
                "How much it logs, to standard error: off, error, warn, info (if not set), debug or trace; or of a module, as in \
                 lb_control=debug.",
            )],
        ),
        rows(
            "FILES",
            &[
                ("/etc/lb/lbd.toml", "The config file that the unit of systemd has."),
                (DEFAULT_SOCKET, "The socket of the API: api.socket in the config file."),
                (
                    "/dev/hugepages/lbd-*, /dev/shm/lbd-*",
                    "What outlives the process for its next start: connections, services, rules, IP sets.",
                ),
            ],
        ),
        rows("SEE ALSO", &[("lbctl(1)", "Asks and tells it.")]),
    ]
}
