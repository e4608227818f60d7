//! `chat`: one command per call. Without a command it shows what there is.

mod inbox;
mod lines;
mod send;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use chat_client::{Client, Key, Reason, Session, Undelivered};
use clap::{CommandFactory as _, Parser, Subcommand};
use serde::Serialize;

use crate::usage;

use super::{
    connection::Connection,
    failure::{Failure, conclude},
    output::{AccountLine, MessageLine, clock, json, message, one_line},
    password::PasswordSource,
    sessions::Sessions,
};

/// Chat: accounts, messages, history.
#[derive(Debug, Parser)]
#[command(name = "chat", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(flatten)]
    connection: Connection,

    /// Who you are; may be left out where exactly one session is stored for these servers
    #[arg(long, global = true, env = "CHAT_USER", value_name = "NAME")]
    user: Option<String>,

    #[command(flatten)]
    password: PasswordSource,

    /// Print one JSON object per line
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 refused, 2 usage, 3 no leader or no answer within the timeout.\n\
    The password comes from CHAT_PASSWORD, --password-stdin or a prompt. Sessions are stored in CHAT_STATE_DIR, by \
    default ~/.local/state/chat.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Open an account named --user
    Register {
        /// The name that others see; by default the username
        #[arg(long, default_value = "")]
        display_name: String,
        #[command(flatten)]
        again: Again,
    },
    /// Open a session and store it
    Login,
    /// Close the stored session
    Logout,
    /// Show the account of the session, and how far its mailbox is
    Whoami,
    /// List accounts
    Accounts {
        /// `*` stands for any run of characters, `?` for one
        #[arg(default_value = "*")]
        pattern: String,
    },
    /// Send a message, or each line of standard input as one
    Send {
        /// The recipient's username
        to: String,
        /// The text; `-`, or nothing: each line of standard input
        text: Option<String>,
        #[command(flatten)]
        again: Again,
    },
    /// Show what has not been delivered yet, and mark it as delivered
    Inbox {
        /// Go on with what arrives, until Ctrl-C
        #[arg(long, short)]
        follow: bool,
    },
    /// Show the messages between you and one other, the oldest first
    History {
        /// The other's username
        with: String,
        /// Only the newest so many
        #[arg(long, value_name = "COUNT")]
        limit: Option<usize>,
    },
    /// Delete the account: its name is not given out again, its undelivered messages are discarded
    DeleteAccount {
        /// Do nothing if there are undelivered messages
        #[arg(long)]
        refuse_if_undelivered: bool,
        #[command(flatten)]
        again: Again,
    },
}

/// Of every command that changes something.
#[derive(Debug, clap::Args)]
struct Again {
    /// Ask again for an outcome that was unknown: the key that the error named
    #[arg(long)]
    key: Option<Key>,
}

impl Again {
    fn key(&self) -> Key {
        self.key.unwrap_or_else(Key::generate)
    }
}

/// Runs `chat` with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Arguments = match usage::parse("chat", std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let Some(command) = &arguments.command else {
        let _ = write!(io::stderr(), "{}", Arguments::command().render_help());
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run(&arguments, command));
            // A line of standard input that nobody will type must not keep the process.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(Failure::Local(format!("cannot start: {error}"))),
    };
    conclude("chat", result)
}

async fn run(arguments: &Arguments, command: &Command) -> Result<(), Failure> {
    let chat = Chat { arguments, client: arguments.connection.client()?, sessions: arguments.sessions()? };
    match command {
        Command::Register { display_name, again } => chat.register(display_name, again.key()).await,
        Command::Login => chat.log_in().await,
        Command::Logout => chat.log_out().await,
        Command::Whoami => chat.whoami().await,
        Command::Accounts { pattern } => chat.accounts(pattern).await,
        Command::Send { to, text, again } => chat.send(to, text.as_deref(), again).await,
        Command::Inbox { follow } => chat.inbox(*follow).await,
        Command::History { with, limit } => chat.history(with, *limit).await,
        Command::DeleteAccount { refuse_if_undelivered, again } => {
            let undelivered = if *refuse_if_undelivered { Undelivered::Refuse } else { Undelivered::Discard };
            chat.delete_account(undelivered, again).await
        }
    }
}

impl Arguments {
    fn sessions(&self) -> Result<Sessions, Failure> {
        Sessions::of(&self.connection.servers()?)
    }
}

struct Chat<'a> {
    arguments: &'a Arguments,
    client: Client,
    sessions: Sessions,
}

#[derive(Serialize)]
struct WhoamiLine<'a> {
    #[serde(flatten)]
    account: AccountLine<'a>,
    read: u64,
    delivered: u64,
    last: u64,
}

#[derive(Serialize)]
struct DeletedLine<'a> {
    name: &'a str,
    discarded: u64,
}

impl Chat<'_> {
    /// Who acts: as told, or whoever alone has a session here.
    fn user(&self) -> Result<String, Failure> {
        if let Some(user) = &self.arguments.user {
            return Ok(user.to_lowercase());
        }
        let mut names = self.sessions.names();
        match (names.pop(), names.is_empty()) {
            (Some(name), true) => Ok(name),
            (Some(name), false) => {
                let names = names.join(", ");
                Err(Failure::Usage(format!("say who you are with --user or CHAT_USER: {names} or {name}")))
            }
            (None, _) => Err(Failure::Usage("say who you are with --user or CHAT_USER".to_owned())),
        }
    }

    /// The stored session, or a new one where a password is at hand.
    async fn session(&self) -> Result<(String, Session), Failure> {
        let user = self.user()?;
        let password = self.arguments.password.offered()?;
        self.session_of(&user, password.as_deref()).await.map(|session| (user, session))
    }

    async fn session_of(&self, user: &str, password: Option<&str>) -> Result<Session, Failure> {
        let stored = self.sessions.token(user)?.and_then(|token| self.client.restore(&token).ok());
        match (stored, password) {
            (Some(session), None) => Ok(session),
            (Some(session), Some(password)) => match session.whoami().await {
                Err(error) if error.reason() == Some(Reason::SessionInvalid) => self.log_in_as(user, password).await,
                result => Ok(result.map(|_| session)?),
            },
            (None, Some(password)) => self.log_in_as(user, password).await,
            (None, None) => {
                let message = format!("not logged in as {user}: use `chat login`, or set CHAT_PASSWORD");
                Err(Failure::Usage(message))
            }
        }
    }

    async fn log_in_as(&self, user: &str, password: &str) -> Result<Session, Failure> {
        let session = self.client.log_in(user, password).await?;
        self.sessions.keep(user, session.export())?;
        Ok(session)
    }

    async fn register(&self, display_name: &str, key: Key) -> Result<(), Failure> {
        // Whoever has a session has an account already.
        let named = self.arguments.user.as_ref().map(|user| user.to_lowercase());
        let user = named.ok_or_else(|| Failure::Usage("say with --user or CHAT_USER whom to register".to_owned()))?;
        let password = self.arguments.password.demanded(&user, true)?;
        let account = self.client.register_with(key, &user, display_name, &password).await?;
        let mut out = io::stdout().lock();
        if self.arguments.json {
            json(&mut out, &AccountLine::from(&account))?;
        } else {
            writeln!(out, "registered {}", one_line(&account.name))?;
        }
        Ok(())
    }

    async fn log_in(&self) -> Result<(), Failure> {
        let user = self.user()?;
        let password = self.arguments.password.demanded(&user, false)?;
        let session = self.log_in_as(&user, &password).await?;
        let mut out = io::stdout().lock();
        match session.account().filter(|_| self.arguments.json) {
            Some(account) => json(&mut out, &AccountLine::from(account))?,
            None => writeln!(out, "logged in as {}", one_line(&user))?,
        }
        Ok(())
    }

    async fn log_out(&self) -> Result<(), Failure> {
        let user = self.user()?;
        if let Some(token) = self.sessions.token(&user)? {
            if let Ok(session) = self.client.restore(&token) {
                session.log_out().await?;
            }
            self.sessions.forget(&user)?;
        }
        if !self.arguments.json {
            writeln!(io::stdout(), "logged out {}", one_line(&user))?;
        }
        Ok(())
    }

    async fn whoami(&self) -> Result<(), Failure> {
        let (_, session) = self.session().await?;
        let me = session.whoami().await?;
        let (account, marks) = (AccountLine::from(&me.account), me.marks);
        let mut out = io::stdout().lock();
        if self.arguments.json {
            let line = WhoamiLine { account, read: marks.read, delivered: marks.delivered, last: marks.last };
            json(&mut out, &line)?;
        } else {
            let (name, display_name) = (one_line(&me.account.name), one_line(&me.account.display_name));
            let new = marks.last.saturating_sub(marks.delivered);
            writeln!(out, "{name} ({display_name}), since {}, {new} new", clock(me.account.created_at_ms))?;
        }
        Ok(())
    }

    async fn accounts(&self, pattern: &str) -> Result<(), Failure> {
        let (_, session) = self.session().await?;
        let mut out = io::BufWriter::new(io::stdout());
        let mut accounts = session.accounts(pattern);
        while let Some(account) = accounts.next().await? {
            if self.arguments.json {
                json(&mut out, &AccountLine::from(&account))?;
            } else {
                // A username has at most 32 bytes; most are far shorter.
                let (name, display_name) = (one_line(&account.name), one_line(&account.display_name));
                writeln!(out, "{name:<16}  {}  {display_name}", clock(account.created_at_ms))?;
            }
        }
        Ok(out.flush()?)
    }

    async fn history(&self, with: &str, limit: Option<usize>) -> Result<(), Failure> {
        let (_, session) = self.session().await?;
        let wanted = limit.unwrap_or(usize::MAX);
        // Pages come from the newest to the oldest, and are shown the other way round.
        let (mut pages, mut count) = (Vec::new(), 0);
        let mut history = session.history(with);
        while count < wanted {
            let Some(page) = history.older().await? else { break };
            count += page.len();
            pages.push(page);
        }
        let mut out = io::BufWriter::new(io::stdout());
        for shown in pages.iter().rev().flatten().skip(count.saturating_sub(wanted)) {
            if self.arguments.json {
                json(&mut out, &MessageLine::from(shown))?;
            } else {
                message(&mut out, shown)?;
            }
        }
        Ok(out.flush()?)
    }

    async fn delete_account(&self, undelivered: Undelivered, again: &Again) -> Result<(), Failure> {
        let user = self.user()?;
        let password = self.arguments.password.demanded(&user, false)?;
        // Asked again, the session may be gone with the account: only the deletion itself still answers to it.
        let known = self.sessions.token(&user)?.filter(|_| again.key.is_some());
        let session = match known {
            Some(token) => self.client.restore(&token)?,
            None => self.session_of(&user, Some(&password)).await?,
        };
        let deleted = session.delete_account_with_key(again.key(), &password, undelivered).await?;
        self.sessions.forget(&user)?;
        let mut out = io::stdout().lock();
        if self.arguments.json {
            json(&mut out, &DeletedLine { name: &user, discarded: deleted.discarded })?;
        } else {
            writeln!(out, "deleted {}; undelivered messages discarded: {}", one_line(&user), deleted.discarded)?;
        }
        Ok(())
    }
}
