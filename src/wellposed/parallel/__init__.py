"""How, and where, are many recipes trained? As one program in this process, in several processes, or on a cluster."""
