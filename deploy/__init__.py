"""What stands above the three packages and puts processes together: command line, `up`, the lab, images."""
