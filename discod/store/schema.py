"""The tables, as the migrations that make them. Ids and hashes are 32-byte blobs, times Unix seconds."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE mesh (
            id BLOB PRIMARY KEY, root BLOB NOT NULL, name TEXT NOT NULL, signaling TEXT NOT NULL,
            signaling_key BLOB NOT NULL, joined REAL NOT NULL) STRICT""",
        """CREATE TABLE record (
            mesh BLOB NOT NULL REFERENCES mesh ON DELETE CASCADE, hash BLOB NOT NULL, data BLOB NOT NULL,
            PRIMARY KEY (mesh, hash)) STRICT""",
        """CREATE TABLE number (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT""",
        """CREATE TABLE dataset (
            alias TEXT PRIMARY KEY, path TEXT, sample TEXT, content BLOB NOT NULL, rows INTEGER NOT NULL,
            about TEXT NOT NULL, added REAL NOT NULL) STRICT""",
        """CREATE TABLE task (
            id BLOB PRIMARY KEY, mesh BLOB, name TEXT NOT NULL, spec BLOB NOT NULL, accepted INTEGER NOT NULL,
            data TEXT, state TEXT NOT NULL, added REAL NOT NULL) STRICT""",
        """CREATE TABLE run (
            number INTEGER PRIMARY KEY AUTOINCREMENT, task BLOB NOT NULL, data TEXT NOT NULL, state TEXT NOT NULL,
            started REAL NOT NULL, ended REAL) STRICT""",
        """CREATE TABLE figure (
            run INTEGER NOT NULL REFERENCES run ON DELETE CASCADE, step INTEGER NOT NULL, round INTEGER NOT NULL,
            time REAL NOT NULL, figures TEXT NOT NULL, PRIMARY KEY (run, step)) STRICT""",
        """CREATE TABLE header (
            task BLOB NOT NULL, state BLOB NOT NULL, parent BLOB NOT NULL, round INTEGER NOT NULL,
            certificate BLOB NOT NULL, PRIMARY KEY (task, state)) STRICT""",
        """CREATE TABLE base (task BLOB PRIMARY KEY, state BLOB NOT NULL) STRICT""",
        """CREATE TABLE spent (
            task BLOB NOT NULL, base BLOB NOT NULL, batches INTEGER NOT NULL, rid BLOB NOT NULL, charge REAL NOT NULL,
            uh BLOB, PRIMARY KEY (task, rid)) STRICT""",
        """CREATE INDEX spent_under ON spent (task, base)""",
        """CREATE TABLE model (
            number INTEGER PRIMARY KEY AUTOINCREMENT, task BLOB NOT NULL, name TEXT NOT NULL, round INTEGER NOT NULL,
            state BLOB NOT NULL, saved REAL NOT NULL) STRICT""",
    ),
    (
        """CREATE TABLE budget (
            content BLOB PRIMARY KEY, path TEXT NOT NULL, epsilon REAL NOT NULL, delta REAL NOT NULL) STRICT""",
        """CREATE TABLE share (
            content BLOB NOT NULL REFERENCES budget, task BLOB NOT NULL, record BLOB NOT NULL, peer BLOB NOT NULL,
            overflow REAL NOT NULL, PRIMARY KEY (content, task)) STRICT""",
        """CREATE TABLE raised (
            number INTEGER PRIMARY KEY AUTOINCREMENT, content BLOB NOT NULL REFERENCES budget, time REAL NOT NULL,
            before REAL NOT NULL, after REAL NOT NULL, reason TEXT NOT NULL) STRICT""",
    ),
)
