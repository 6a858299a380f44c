"""What methods keep of earlier sessions."""
