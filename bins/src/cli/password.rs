//! Where a password comes from: `CHAT_PASSWORD`, `--password-stdin`, or a prompt without echo. Never from an argument,
//! which everybody on the machine could read.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};

use clap::Args;

use super::failure::Failure;

#[derive(Debug, Args)]
pub(super) struct PasswordSource {
    /// Read the password from the first line of standard input (else: CHAT_PASSWORD, or a prompt)
    #[arg(long, global = true)]
    pub password_stdin: bool,
}

impl PasswordSource {
    /// The password, where it can be had without asking a person.
    pub(super) fn offered(&self) -> Result<Option<String>, Failure> {
        if self.password_stdin {
            let mut line = String::new();
            let unreadable = |_| Failure::Local("the password on standard input cannot be read".to_owned());
            // Of input without line breaks, no more than is too long anyhow.
            let read = io::stdin().lock().take(4096).read_line(&mut line).map_err(unreadable)?;
            if read == 0 {
                return Err(Failure::Usage("there is no password on standard input".to_owned()));
            }
            let password = line.trim_end_matches(['\r', '\n']);
            return Ok(Some(password.to_owned()));
        }
        match std::env::var("CHAT_PASSWORD") {
            Ok(password) => Ok(Some(password)),
            Err(std::env::VarError::NotPresent) => Ok(None),
            // The value itself must not appear.
            Err(_) => Err(Failure::Usage("CHAT_PASSWORD is not UTF-8".to_owned())),
        }
    }

    /// The password, from a person if need be. `twice`: a new one, so it is asked for again.
    pub(super) fn demanded(&self, user: &str, twice: bool) -> Result<String, Failure> {
        if let Some(password) = self.offered()? {
            return Ok(password);
        }
        if !io::stdin().is_terminal() {
            let message = "a password is needed: set CHAT_PASSWORD, use --password-stdin, or call from a terminal";
            return Err(Failure::Usage(message.to_owned()));
        }
        let unreadable = |error| Failure::Local(format!("the password cannot be read from the terminal: {error}"));
        let password = rpassword::prompt_password(format!("Password of {user}: ")).map_err(unreadable)?;
        if twice && rpassword::prompt_password("The same again: ").map_err(unreadable)? != password {
            return Err(Failure::Usage("these were two different passwords".to_owned()));
        }
        Ok(password)
    }
}
