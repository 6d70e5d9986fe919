"""Every system on every data set: the command, the value it should give and the value it gave, beside published figures."""
