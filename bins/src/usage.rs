//! Command lines that make no sense: every program says so in one sentence.

use clap::Parser;
use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

/// The command line makes no sense.
pub(crate) const USAGE: u8 = 2;

/// Understands the command line of `program`. Help and mistakes are printed: then there is only the exit code left.
pub(crate) fn parse<T: Parser>(program: &str, arguments: impl IntoIterator<Item = OsString>) -> Result<T, ExitCode> {
    T::try_parse_from(arguments).map_err(|error| {
        // Nobody reading is no reason to fail.
        if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            let _ = error.print();
            return ExitCode::from(USAGE);
        }
        if !error.use_stderr() {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        let _ = writeln!(std::io::stderr(), "{program}: {}", sentence(program, &error));
        ExitCode::from(USAGE)
    })
}

fn sentence(program: &str, error: &clap::Error) -> String {
    let text = error.to_string();
    // The first paragraph says it; usage and hints follow.
    let first = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = first.trim_start_matches("error: ").split_whitespace().collect();
    let shown: String = words.join(" ").chars().flat_map(harmless).collect();
    format!("{shown} (see {program} --help)")
}

/// What somebody typed may hold what a terminal would obey.
fn harmless(c: char) -> Vec<char> {
    if c.is_control() { c.escape_default().collect() } else { vec![c] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Flags {
        #[arg(long)]
        id: u32,
        #[arg(long)]
        data: String,
    }

    #[test]
    fn a_mistake_is_one_sentence() {
        for (arguments, names) in [
            (&["p", "--id", "x"][..], "'x' for '--id <ID>'"),
            (&["p", "--frob"], "'--frob'"),
            (&["p"], "--id <ID> --data <DATA>"),
            (&["p", "--\u{1b}[31m\u{7}\u{85}"], "unexpected argument"),
        ] {
            let said = sentence("p", &Flags::try_parse_from(arguments).expect_err("it is wrong"));
            assert!(said.contains(names) && said.ends_with("(see p --help)"), "{said}");
            assert!(!said.contains(char::is_control), "{said}");
        }
    }
}
