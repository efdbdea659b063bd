"""What starts work at a site. One file an engine; each implements `suan.ports.Engine`, no decisions."""
