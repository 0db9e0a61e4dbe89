"""What happened: job directories, states, records, cancelling. Plain files under PAI_HOME."""
