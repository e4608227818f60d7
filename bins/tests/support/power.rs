//! Machines whose power a test can cut: what was not synced is gone. The other half is `powercut.c`, which says what it keeps.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Disks write whole sectors of so many bytes.
const SECTOR: usize = 512;
/// Words of 32 bits that `powercut.c` has for each machine, and what they are.
const WORDS: usize = 8;
const MACHINES: usize = 8;
const OFF: usize = 0;
const COUNT: usize = 1;
const AT: usize = 2;
const WHEN: usize = 3;
const MASK: usize = 4;
const CUT: usize = 5;

/// When the power goes, at the sync that was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// Before it takes effect: everything that was said until then rests on earlier ones.
    Before,
    /// After it took effect, and before anybody is told.
    After,
}

/// What of that which was not synced is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Model {
    /// All of it, and names that were made, changed or removed since their directory was synced: what POSIX allows at worst.
    Strict,
    /// Contents only; names are as they were, as with a file system that keeps a journal of them.
    Lenient,
    /// What chance says: each sector, each file's length and each name is as it was synced or as it was last. A few writes got to
    /// the disk at once.
    Torn,
}

/// One supply of power, and the words by which those on it are told.
pub struct Supply {
    control: File,
    path: PathBuf,
    library: PathBuf,
}

impl Supply {
    /// In this folder; or why that cannot be done here.
    pub fn new(folder: &Path) -> Result<Supply, String> {
        fs::create_dir_all(folder).expect("a folder");
        let (library, path) = (folder.join("powercut.so"), folder.join("control"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/powercut.c");
        let mut cc = Command::new("cc");
        cc.args(["-std=c11", "-O2", "-Wall", "-shared", "-fPIC", "-pthread", "-o"])
            .arg(&library)
            .arg(source)
            .arg("-ldl");
        let output = cc.output().map_err(|error| format!("there is no C compiler: {error}"))?;
        if !output.status.success() {
            return Err(format!("cc cannot make it: {}", String::from_utf8_lossy(&output.stderr)));
        }
        fs::write(&path, [0; MACHINES * WORDS * 4]).expect("written");
        let control = OpenOptions::new().read(true).write(true).open(&path).expect("just made");
        let supply = Supply { control, path, library };
        // Where preloading has no effect, nothing would be cut, and all would be well.
        let disk = supply.disk(0, folder.join("probe"));
        disk.run(&supply, &["sync", "-d", "."]);
        if supply.syncs(0) == 1 { Ok(supply) } else { Err("LD_PRELOAD takes no effect".to_owned()) }
    }

    /// The disk of this machine, empty.
    pub fn disk(&self, machine: usize, root: PathBuf) -> Disk {
        let platter = root.with_extension("platter");
        fs::create_dir_all(&root).expect("a folder");
        let root = root.canonicalize().expect("just made");
        let disk = Disk { machine, root, platter };
        disk.settle();
        disk
    }

    fn get(&self, machine: usize, word: usize) -> u32 {
        let mut bytes = [0; 4];
        self.control.read_exact_at(&mut bytes, ((machine * WORDS + word) * 4) as u64).expect("readable");
        u32::from_ne_bytes(bytes)
    }

    fn set(&self, machine: usize, word: usize, value: u32) {
        let at = ((machine * WORDS + word) * 4) as u64;
        self.control.write_all_at(&value.to_ne_bytes(), at).expect("writable");
    }

    /// Syncs of this machine since it was last booted.
    pub fn syncs(&self, machine: usize) -> u32 {
        self.get(machine, COUNT)
    }

    /// Whether the cut that it was armed for has come.
    pub fn has_cut(&self, machine: usize) -> bool {
        self.get(machine, CUT) == 1
    }

    /// The power of `victims` goes at this sync of this machine, counted from its boot. Without any, only its process is killed.
    pub fn arm(&self, machine: usize, at: u32, when: When, victims: &[usize]) {
        self.set(machine, MASK, victims.iter().map(|victim| 1 << victim).sum());
        self.set(machine, WHEN, u32::from(when == When::After));
        self.set(machine, CUT, 0);
        self.set(machine, AT, at);
    }

    /// The power of these goes now.
    pub fn switch_off(&self, victims: &[usize]) {
        victims.iter().for_each(|victim| self.set(*victim, OFF, 1));
    }

    /// There is power again.
    pub fn switch_on(&self, machine: usize) {
        (0..WORDS).for_each(|word| self.set(machine, word, 0));
    }
}

/// What one machine has for a disk: a folder, and what a power cut would leave of it.
pub struct Disk {
    pub machine: usize,
    pub root: PathBuf,
    platter: PathBuf,
}

/// An entry of a directory.
type Entry = (bool, u64);

impl Disk {
    /// Words before a command, which then runs on this machine. Of 1000 writes, `writeback` get to the disk by themselves.
    pub fn words(&self, supply: &Supply, writeback: u32, seed: u64, lies: bool) -> Vec<String> {
        let mut words = vec![
            "env".to_owned(),
            format!("LD_PRELOAD={}", supply.library.display()),
            format!("POWERCUT_CONTROL={}", supply.path.display()),
            format!("POWERCUT_ROOT={}", self.root.display()),
            format!("POWERCUT_PLATTER={}", self.platter.display()),
            format!("POWERCUT_MACHINE={}", self.machine),
            format!("POWERCUT_WRITEBACK={writeback}"),
            format!("POWERCUT_SEED={seed}"),
        ];
        words.extend(lies.then(|| "POWERCUT_LIES=1".to_owned()));
        words
    }

    /// Runs a command on this machine, in its folder, to its end.
    pub fn run(&self, supply: &Supply, command: &[&str]) {
        let words = self.words(supply, 0, 0, false);
        let status = Command::new(&words[0]).args(&words[1..]).args(command).current_dir(&self.root).status();
        assert!(status.is_ok_and(|status| status.success()), "{command:?} fails");
    }

    /// Everything that is there is on the platter.
    pub fn settle(&self) {
        let _ = fs::remove_dir_all(&self.platter);
        fs::create_dir_all(&self.platter).expect("a folder");
        self.settle_directory(&self.root);
    }

    fn settle_directory(&self, path: &Path) {
        let mut list = String::new();
        for (name, (is_directory, inode)) in entries(path) {
            list += &format!("{} {inode} {name}\n", if is_directory { 'd' } else { 'f' });
            let path = path.join(name);
            if is_directory {
                self.settle_directory(&path);
            } else {
                fs::copy(path, self.platter.join(format!("f{inode}"))).expect("copied");
            }
        }
        let inode = fs::metadata(path).expect("there").ino();
        fs::write(self.platter.join(format!("d{inode}")), list).expect("written");
    }

    /// Makes of the folder what the cut has left. Files that lie directly in it are not the machine's.
    pub fn lose(&self, model: Model, seed: u64) {
        let mut left = Left { disk: self, live: HashMap::new(), model, random: StdRng::seed_from_u64(seed) };
        for entry in fs::read_dir(&self.platter).expect("there").flatten() {
            let name = entry.file_name().into_string().expect("UTF-8");
            if let Some(inode) = name.strip_prefix('g').and_then(|inode| inode.parse().ok()) {
                left.live.insert(inode, entry.path());
            }
        }
        left.find_live(&self.root);
        let after = self.root.with_extension("after");
        let _ = fs::remove_dir_all(&after);
        left.directory(fs::metadata(&self.root).expect("there").ino(), &after);
        for (name, (is_directory, _)) in entries(&self.root) {
            if is_directory {
                fs::remove_dir_all(self.root.join(name)).expect("removed");
            }
        }
        for (name, (is_directory, _)) in entries(&after) {
            if is_directory {
                fs::rename(after.join(&name), self.root.join(&name)).expect("moved");
            }
        }
        fs::remove_dir_all(&after).expect("removed");
        self.settle();
    }
}

fn entries(path: &Path) -> BTreeMap<String, Entry> {
    let read = fs::read_dir(path).into_iter().flatten().flatten();
    let entry = |entry: fs::DirEntry| {
        let about = entry.metadata().expect("there");
        (entry.file_name().into_string().expect("UTF-8"), (about.is_dir(), about.ino()))
    };
    read.map(entry).collect()
}

/// What is left of a disk: copied out of the platter, and of what was live when the power went.
struct Left<'d> {
    disk: &'d Disk,
    live: HashMap<u64, PathBuf>,
    model: Model,
    random: StdRng,
}

impl Left<'_> {
    fn find_live(&mut self, path: &Path) {
        for (name, (is_directory, inode)) in entries(path) {
            let path = path.join(name);
            if is_directory {
                self.find_live(&path);
            }
            self.live.insert(inode, path);
        }
        self.live.insert(fs::metadata(path).expect("there").ino(), path.to_path_buf());
    }

    fn directory(&mut self, inode: u64, to: &Path) {
        fs::create_dir_all(to).expect("a folder");
        let list = fs::read_to_string(self.disk.platter.join(format!("d{inode}"))).unwrap_or_default();
        let entry = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let is_directory = words.next()? == "d";
            let inode = words.next()?.parse().ok()?;
            Some((words.next()?.to_owned(), (is_directory, inode)))
        };
        let durable: BTreeMap<String, Entry> = list.lines().map(|line| entry(line).expect("an entry")).collect();
        let live = self.live.get(&inode).map(|path| entries(path)).unwrap_or_default();
        let names: BTreeSet<&String> = durable.keys().chain(live.keys()).collect();
        for name in names {
            let synced = match self.model {
                Model::Strict => true,
                Model::Lenient => false,
                Model::Torn => self.random.random(),
            };
            match if synced { durable.get(name) } else { live.get(name) } {
                Some((true, inode)) => self.directory(*inode, &to.join(name)),
                Some((false, inode)) => {
                    let bytes = self.file(*inode);
                    fs::write(to.join(name), bytes).expect("written");
                }
                None => {}
            }
        }
    }

    fn file(&mut self, inode: u64) -> Vec<u8> {
        let mut bytes = fs::read(self.disk.platter.join(format!("f{inode}"))).unwrap_or_default();
        if self.model != Model::Torn {
            return bytes;
        }
        let live = self.live.get(&inode).map(|path| fs::read(path).expect("readable")).unwrap_or_default();
        if self.random.random() {
            bytes.resize(live.len(), 0);
        }
        for (now, last) in bytes.chunks_mut(SECTOR).zip(live.chunks(SECTOR)) {
            let both = now.len().min(last.len());
            if now[..both] != last[..both] && self.random.random() {
                now[..both].copy_from_slice(&last[..both]);
            }
        }
        bytes
    }
}
