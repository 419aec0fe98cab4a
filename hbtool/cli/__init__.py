"""The command line: parse, call a flow, print. The only place that prints."""
