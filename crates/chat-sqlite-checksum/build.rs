//! Compiles the layer against the header of the SQLite that is linked.

fn main() {
    println!("cargo:rerun-if-changed=src/checked_vfs.c");
    let include = std::env::var("DEP_SQLITE3_INCLUDE").expect("libsqlite3-sys, bundled, says where its header is");
    let out = std::env::var("OUT_DIR").expect("cargo says where to");
    cc::Build::new()
        .file("src/checked_vfs.c")
        .include(include)
        // Every page that is read goes through it, in tests too.
        .opt_level(2)
        .warnings(true)
        .extra_warnings(true)
        .cargo_metadata(false)
        .compile("chat_checked_vfs");
    println!("cargo:rustc-link-search=native={out}");
    // Whole: nobody calls it; it registers itself before `main`.
    println!("cargo:rustc-link-lib=static:+whole-archive=chat_checked_vfs");
}
